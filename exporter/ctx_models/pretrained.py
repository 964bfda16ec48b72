"""Length-adaptive models of pretrained encoders of the BERT family, with their answers unchanged."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from ctx_models.config import Activation, AdaptiveConfig, SegmentConfig
from ctx_models.errors import ModelError
from ctx_models.heads import Task, TaskModel
from ctx_models.layers import TransposedLinear

_ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
_SUFFIXES: dict[str, Task] = {
    "ForTokenClassification": "token-classification",
    "ForSequenceClassification": "text-classification",
    "Model": "feature-extraction",
}


def adapt_bert(
    hf_model: nn.Module,
    *,
    task: Task | None = None,
    labels: Sequence[str] = (),
    segment: SegmentConfig | None = None,
) -> TaskModel:
    """A length-adaptive model with the weights of a BERT-like one: BERT, MiniLM, RoBERTa, XLM-RoBERTa, CamemBERT.

    At full size it gives the same answers. What the pretrained model lacks for the task is drawn anew.

    Args:
        hf_model: a model of transformers, or one with the same modules and `config`.
        task: what it is for; None: what the model's class is for.
        labels: the names of the classes; by default those of the model, if its class is for the task.
        segment: how longer inputs are cut; None: they are not taken.

    Raises:
        ModelError: the model has other modules than BERT's, or none for the task's labels.
    """
    own = next((task for suffix, task in _SUFFIXES.items() if type(hf_model).__name__.endswith(suffix)), None)
    task = task or own or "feature-extraction"
    base: Any = getattr(hf_model, str(getattr(hf_model, "base_model_prefix", "")), hf_model)
    try:
        settings: Any = hf_model.config
        if not labels and task == own != "feature-extraction":
            labels = [str(settings.id2label[index]) for index in range(len(settings.id2label))]
        config = dataclasses.replace(_read_config(base, settings), pooling=_pooling(task), segment=segment)
        model = TaskModel(config, task, labels)
        with torch.no_grad():
            _copy_encoder(model.backbone, base)
            _copy_head(model, hf_model, base)
    except (AttributeError, TypeError, KeyError) as error:
        raise ModelError(
            f"{type(hf_model).__name__} is not made like BERT: {error}",
            hint="BERT, MiniLM, RoBERTa, XLM-RoBERTa and CamemBERT can be adapted",
        ) from error
    return model.eval()


def _pooling(task: Task) -> Any:  # noqa: ANN401 (a literal)
    return "cls" if task == "text-classification" else "mean"


def _read_config(base: Any, settings: Any) -> AdaptiveConfig:  # noqa: ANN401
    """The shape of a BERT-like encoder."""
    kind = getattr(settings, "position_embedding_type", None) or "absolute"
    if kind != "absolute" or settings.is_decoder or settings.hidden_act not in _ACTIVATIONS:
        raise ModelError(f"{type(base).__name__} has {kind} positions, or an activation, that can't be adapted")
    positions = base.embeddings.position_embeddings
    return AdaptiveConfig(
        architecture="encoder",
        vocab_size=settings.vocab_size,
        hidden_size=settings.hidden_size,
        num_layers=settings.num_hidden_layers,
        num_heads=settings.num_attention_heads,
        head_size=settings.hidden_size // settings.num_attention_heads,
        ffn_size=settings.intermediate_size,
        max_length=positions.num_embeddings - _unused_positions(positions),
        dropout=settings.hidden_dropout_prob,
        positions="learned",
        norm="post",
        activation=_ACTIVATIONS[settings.hidden_act],
        layer_norm_eps=settings.layer_norm_eps,
        type_vocab_size=settings.type_vocab_size,
        pad_id=settings.pad_token_id or 0,
    )


def _unused_positions(positions: nn.Embedding) -> int:
    """Rows of the table before that of the first token: RoBERTa's positions start behind the padding id."""
    return 0 if positions.padding_idx is None else positions.padding_idx + 1


def _copy_encoder(encoder: Any, base: Any) -> None:  # noqa: ANN401
    ours, theirs = encoder.embeddings, base.embeddings
    positions = theirs.position_embeddings
    ours.tokens.weight.copy_(theirs.word_embeddings.weight)
    ours.positions.weight.copy_(positions.weight[_unused_positions(positions) :])
    ours.types.weight.copy_(theirs.token_type_embeddings.weight)
    ours.norm.load_state_dict(theirs.LayerNorm.state_dict())
    for layer, other in zip(encoder.stack.layers, base.encoder.layer, strict=True):
        for module, linear in _pairs(layer, other):
            transposed = isinstance(module, TransposedLinear)
            module.weight.copy_(linear.weight.T if transposed else linear.weight)
            module.bias.copy_(linear.bias)
    if encoder.fusion is not None:
        encoder.fusion.close()


def _pairs(layer: Any, theirs: Any) -> Iterator[tuple[Any, Any]]:  # noqa: ANN401
    """The linear layers and norms of one layer, beside those of a BERT-like one."""
    attention = theirs.attention.self
    yield layer.attention.query, attention.query
    yield layer.attention.key, attention.key
    yield layer.attention.value, attention.value
    yield layer.attention.output, theirs.attention.output.dense
    yield layer.attention_residual.norm, theirs.attention.output.LayerNorm
    yield layer.ffn.up, theirs.intermediate.dense
    yield layer.ffn.down, theirs.output.dense
    yield layer.ffn_residual.norm, theirs.output.LayerNorm


def _copy_head(model: TaskModel, hf_model: nn.Module, base: Any) -> None:  # noqa: ANN401
    """Copy the pooler and, where it has as many classes, the classifier."""
    classifier: Any = getattr(hf_model, "classifier", None)
    roberta = getattr(classifier, "out_proj", None)
    pooler = getattr(getattr(base, "pooler", None) if roberta is None else classifier, "dense", None)
    if model.task == "text-classification" and pooler is not None:
        model.pooler.load_state_dict(pooler.state_dict())
    final = classifier if roberta is None else roberta
    if model.labels and isinstance(final, nn.Linear) and final.out_features == len(model.labels):
        model.classifier.load_state_dict(final.state_dict())
