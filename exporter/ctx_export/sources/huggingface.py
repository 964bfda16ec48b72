"""Text encoders in the Hugging Face format: a folder, or a model in the local cache; never the network."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from ctx_export.sources.folder import PICKLES, digest, find_folder, read_json, weight_files
from ctx_export.sources.pooling import Pooling, read_sentence_encoder
from ctx_export.sources.source import Source, Values, clean_name, describe_outputs, one_line
from ctx_export.sources.tokenizing import FILES, TokenizerInfo, read_tokenizer
from ctx_runtime.errors import SourceError
from ctx_runtime.manifest import InputSpec, SourceRecord, SpecialTokens


@dataclass(frozen=True)
class Task:
    """What a model is loaded for.

    Attributes:
        architecture: how the names of its model classes end.
        auto: the name of transformers' class that loads it.
        mapping: the name of transformers' mapping from configurations to model classes.
        outputs: the outputs that the bundle keeps.
    """

    architecture: str
    auto: str
    mapping: str
    outputs: tuple[str, ...]


TASKS: Mapping[str, Task] = {
    "feature-extraction": Task("Model", "AutoModel", "MODEL_MAPPING", ("last_hidden_state",)),
    "text-classification": Task(
        "ForSequenceClassification",
        "AutoModelForSequenceClassification",
        "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING",
        ("logits",),
    ),
    "token-classification": Task(
        "ForTokenClassification",
        "AutoModelForTokenClassification",
        "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING",
        ("logits",),
    ),
    "question-answering": Task(
        "ForQuestionAnswering",
        "AutoModelForQuestionAnswering",
        "MODEL_FOR_QUESTION_ANSWERING_MAPPING",
        ("start_logits", "end_logits"),
    ),
    "fill-mask": Task("ForMaskedLM", "AutoModelForMaskedLM", "MODEL_FOR_MASKED_LM_MAPPING", ("logits",)),
}
_LENGTHS = (5, 3)
"""Tokens of the runs that show the shapes of outputs."""


class Encoder(torch.nn.Module):
    """A model of transformers whose forward returns a dict of the outputs to keep.

    Args:
        model: the model.
        outputs: the names of its outputs to keep.
        pooling: makes `sentence_embedding` `(batch, hidden)` of `last_hidden_state`.
    """

    def __init__(self, model: torch.nn.Module, outputs: Sequence[str], pooling: Pooling | None) -> None:
        super().__init__()
        self.model = model
        self.outputs = tuple(outputs)
        self.pooling = pooling

    def forward(self, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        """The outputs by name."""
        result = self.model(**inputs)
        outputs = {name: result[name] for name in self.outputs}
        if self.pooling is not None:
            mask = inputs["attention_mask"]
            outputs["sentence_embedding"] = self.pooling(outputs["last_hidden_state"], mask)
        return outputs


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' progress bars and warnings off the terminal; errors still raise."""
    log = transformers.utils.logging
    verbosity, shows_progress = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(verbosity)
        if shows_progress:
            log.enable_progress_bar()


@quiet()
def load_pretrained(model: str | Path, *, task: str | None, name: str | None, allow_pickle: bool) -> Source:
    """Load a text encoder from a folder or from the local cache; see `load_source` for the arguments.

    Raises:
        SourceError: it is no model, or none that can be exported; its files are damaged or pickles.
    """
    if task is not None and task not in TASKS:
        raise SourceError(f"unknown task {task!r}", hint=f"the tasks are {', '.join(TASKS)}")
    root = find_folder(model)
    sentence = read_sentence_encoder(root) if task in (None, "feature-extraction") else None
    folder = sentence.encoder if sentence else root
    config = read_config(folder)
    task = task or ("feature-extraction" if sentence else _infer_task(config, folder))
    weights = weight_files(folder, allow_pickle=allow_pickle)
    pretrained = load_model(folder, config, task, TASKS[task], pickled=weights[0].name in PICKLES)
    tokenizer = read_tokenizer(folder)
    inputs = _describe_inputs(pretrained, tokenizer)
    values = _values(config, tokenizer)
    pooling = sentence.pooling if sentence else None
    encoder = Encoder(pretrained, TASKS[task].outputs, pooling).eval()
    normalized = ("sentence_embedding",) if pooling and pooling.normalize else ()
    extra = sentence.files if sentence else ()
    config_files = [path for file in ("config.json", *FILES) if (path := folder / file).is_file()]
    return Source(
        name=clean_name(name or (root.name if Path(model).is_dir() else str(model))),
        task=task,
        record=SourceRecord(kind="huggingface", sha256=digest(root, [*weights, *config_files, *extra])),
        module=encoder,
        inputs=inputs,
        outputs=describe_outputs(encoder, inputs, values, lengths=_LENGTHS, normalized=normalized),
        max_length=_max_length(pretrained),
        special_tokens=tokenizer.special_tokens if tokenizer else SpecialTokens(),
        tokenizer=tokenizer.file if tokenizer else None,
        via="transformers",
        values=values,
    )


def read_config(folder: Path) -> Any:  # noqa: ANN401 (transformers has no types)
    """The configuration of a text model that transformers knows, without a decoder beside an encoder.

    Raises:
        SourceError: there is none, or it says that the weights are quantised.
    """
    if not (folder / "config.json").is_file():
        raise SourceError(
            f"{folder} is no Hugging Face model: it has no config.json",
            hint="give a folder that save_pretrained wrote, or a .safetensors checkpoint and a factory",
        )
    settings = read_json(folder / "config.json", dict)
    kind = str(settings.get("model_type"))
    try:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers raises whatever it likes
        if kind in transformers.CONFIG_MAPPING:
            raise SourceError(f"{folder.name}/config.json is not sound: {one_line(error)}") from error
        raise SourceError(
            f"transformers {transformers.__version__} knows no architecture {kind!r}",
            hint="code that comes with a model is never run; give a .safetensors checkpoint and a factory",
        ) from error
    if config.is_encoder_decoder:
        raise SourceError(f"{folder.name} ({kind}) has a decoder", hint="only encoders of text can be exported")
    if settings.get("quantization_config"):
        raise SourceError(
            f"the weights in {folder.name} are quantized",
            hint="give the model that they were made from; a resource profile says the precision of each bucket",
        )
    return config


def architectures(config: Any) -> list[str]:  # noqa: ANN401
    """The model classes that the configuration names."""
    return list(map(str, config.architectures)) if isinstance(config.architectures, list) else []


def _infer_task(config: Any, folder: Path) -> str:  # noqa: ANN401
    """The task of the architecture that the configuration names."""
    architecture = next(iter(architectures(config)), "")
    for task, record in TASKS.items():
        if architecture.endswith(record.architecture) and "Head" not in architecture:  # of BertLMHeadModel, say
            return task
    found = f"names the architecture {architecture}" if architecture else "names no architecture"
    raise SourceError(
        f"{folder.name}/config.json {found}, which says no task", hint=f"give the task, one of {', '.join(TASKS)}"
    )


def load_model(folder: Path, config: Any, task: str, record: Task, *, pickled: bool) -> torch.nn.Module:  # noqa: ANN401
    """The model in float32, with every weight of the task's architecture found in the folder.

    Raises:
        SourceError: the weights are damaged, missing or of another architecture or size.
    """
    if type(config) not in getattr(transformers, record.mapping):
        raise SourceError(
            f"transformers has no {config.model_type} for {task}",
            hint=f"its configuration names {', '.join(architectures(config)) or 'no architecture'}",
        )
    config.return_dict, config.use_cache = True, False
    try:
        # Attention is left to transformers: sdpa where the architecture has it, else eager.
        model, report = getattr(transformers, record.auto).from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            use_safetensors=not pickled,
            ignore_mismatched_sizes=True,  # they are in the report
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except Exception as error:  # transformers, safetensors and torch raise whatever they like
        raise SourceError(
            f"the weights in {folder} can't be loaded: {one_line(error)}", hint="copy or download them again"
        ) from error
    # An encoder's own pooler is no part of its last hidden state.
    missing = [key for key in report["missing_keys"] if not (record.auto == "AutoModel" and "pooler." in key)]
    missized = sorted(key for key, *_ in report["mismatched_keys"])
    if missized:
        raise SourceError(
            f"{folder.name} has weights of another size than its config.json for {', '.join(missized[:3])}",
            hint="copy or download both again",
        )
    if missing:
        raise SourceError(
            f"{folder.name} has no weights for {', '.join(sorted(missing)[:3])}: it is no model for {task}",
            hint="fine-tune it first, or give the task that it was trained for",
        )
    loaded: torch.nn.Module = model
    return loaded


def _describe_inputs(model: torch.nn.Module, tokenizer: TokenizerInfo | None) -> tuple[InputSpec, ...]:
    """The inputs that both the model's forward and the tokenizer have."""
    config: Any = model.config
    taken = inspect.signature(model.forward).parameters
    if "input_ids" not in taken or "attention_mask" not in taken:
        raise SourceError(
            f"{type(model).__name__} takes no input_ids with an attention_mask",
            hint="only encoders of text can be exported",
        )
    pads = (tokenizer.pad_id if tokenizer else None, getattr(config, "pad_token_id", None), 0)
    pad = next(value for value in pads if value is not None)
    tokens = InputSpec(name="input_ids", dtype="int64", shape=("batch", "length"), pad=pad, role="tokens")
    mask = InputSpec(name="attention_mask", dtype="int64", shape=("batch", "length"), pad=0, role="mask")
    segments = InputSpec(name="token_type_ids", dtype="int64", shape=("batch", "length"), pad=0, role="segment-ids")
    made = tokenizer is None or segments.name in tokenizer.input_names
    has_segments = made and segments.name in taken and getattr(config, "type_vocab_size", 0) > 1
    return (tokens, mask, segments) if has_segments else (tokens, mask)


def _values(config: Any, tokenizer: TokenizerInfo | None) -> dict[str, Values]:  # noqa: ANN401
    """Ordinary token ids and segment ids."""
    names = ("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id", "mask_token_id")
    special = {value for name in names if isinstance(value := getattr(config, name, None), int)}
    avoid = frozenset(special) | (tokenizer.special_ids if tokenizer else frozenset())
    return {"input_ids": Values(0, config.vocab_size - 1, avoid), "token_type_ids": Values(0, 1)}


def _max_length(model: torch.nn.Module) -> int | None:
    """The longest input that the model has positions for, in tokens.

    That is the rows of its table of positions, less those before the first; the range that it was made for if its
    positions are rotary; None if they are only relative to each other.
    """
    config: Any = model.config
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, torch.nn.Embedding):
            return module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
    return config.max_position_embeddings if hasattr(config, "rope_parameters") else None
