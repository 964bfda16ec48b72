"""Length-adaptive models: a folder that `ctx_models.checkpoint` wrote, or one of its models in Python."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers
from pydantic import ValidationError

from ctx_export.sources.segmented import split_for_segments
from ctx_export.sources.source import Source, Values, clean_name, describe_outputs, one_line
from ctx_export.sources.tokenizing import framing
from ctx_export.subnetworks import Rotation
from ctx_models import embeddings, encoder, fusion, heads, layers, markers, rotary, segments, stack
from ctx_models.checkpoint import is_checkpoint, load_model
from ctx_models.errors import ModelError
from ctx_models.heads import TaskModel
from ctx_models.rotary import scaled_inv_freq
from ctx_models.subnetwork import SubNetwork as OwnSubNetwork
from ctx_runtime.errors import SourceError
from ctx_runtime.manifest import InputSpec, QualityRecord, SourceRecord, SpecialTokens
from ctx_runtime.resource_profile import SubNetwork

__all__ = ["CODE", "AdaptiveSource", "is_checkpoint", "load_adaptive"]

CODE = (embeddings, encoder, fusion, heads, layers, markers, rotary, segments, stack)
"""What the graph of a model depends on beside its folder."""
_LENGTHS = (5, 3)
"""Tokens of the runs that show the shapes of outputs."""


@dataclass(frozen=True, eq=False)
class AdaptiveSource(Source):
    """A model of `ctx_models` that runs whole or in part."""

    module: TaskModel

    def resolve(self, part: SubNetwork | None) -> SubNetwork | None:
        """See `Source.resolve`."""
        if part is None:
            return None
        try:
            found = _own(part).resolve(self.module.config)
        except ModelError as error:
            raise SourceError(f"{self.name} has {error}", hint=error.hint) from error
        whole = OwnSubNetwork().resolve(self.module.config)
        numbers = {name: getattr(found, name) for name in ("layers", "heads", "ffn")}
        kept = {name: number for name, number in numbers.items() if number != getattr(whole, name)}
        scaling = part.position_resolution
        finest = scaling is None or scaling.factor == 1
        resolved = SubNetwork(**kept, position_resolution=None if finest else scaling)
        return None if resolved == SubNetwork() else resolved

    def rotation(self, part: SubNetwork | None) -> Rotation | None:
        """See `Source.rotation`."""
        if part is None or part.position_resolution is None:
            return None
        inv_freq, scale = scaled_inv_freq(self.module.config, _own(part).position_resolution)
        return Rotation(inv_freq.numpy(), scale)

    def _options(self, part: SubNetwork | None) -> dict[str, object]:
        return {"subnetwork": None if part is None else _own(part)}


def load_adaptive(folder: Path, *, task: str | None, name: str | None) -> AdaptiveSource:
    """Load a folder that `ctx_models.checkpoint.save_model` wrote; see `load_source` for the arguments.

    Raises:
        SourceError: it is damaged, or its model is for another task.
    """
    try:
        checkpoint = load_model(folder)
    except ModelError as error:
        raise SourceError(str(error), hint=error.hint) from error
    model = checkpoint.model
    if task not in (None, model.task):
        raise SourceError(f"{folder.name} is a model for {model.task}, not {task}", hint="leave the task out")
    special, avoid = _read_tokenizer(checkpoint.tokenizer)
    inputs = _inputs(model)
    values = {
        "input_ids": Values(0, model.config.vocab_size - 1, avoid | {model.config.pad_id}),
        "token_type_ids": Values(0, max(model.config.type_vocab_size - 1, 0)),
    }
    normalized = ("sentence_embedding",) if model.task == "feature-extraction" else ()
    source = AdaptiveSource(
        name=clean_name(name or folder.resolve().name),
        task=model.task,
        record=SourceRecord(kind="adaptive", sha256=checkpoint.sha256),
        module=model,
        inputs=inputs,
        outputs=describe_outputs(model, inputs, values, lengths=_LENGTHS, normalized=normalized),
        max_length=model.config.window,
        special_tokens=special,
        tokenizer=checkpoint.tokenizer,
        via="torch",
        values=values,
    )
    steps = checkpoint.policy.steps if checkpoint.policy else ()
    return dataclasses.replace(
        source,
        steps=tuple((length, source.resolve(_theirs(part))) for length, part in steps),
        quality=_quality(source, checkpoint.quality),
        fusion=split_for_segments(source, model),
    )


def _own(part: SubNetwork) -> OwnSubNetwork:
    return OwnSubNetwork.from_json(part.model_dump())


def _theirs(part: OwnSubNetwork) -> SubNetwork:
    return SubNetwork.model_validate(part.to_json())


def _read_tokenizer(file: Path | None) -> tuple[SpecialTokens, frozenset[int]]:
    """What a tokenizer puts around a text, and every id that is special."""
    if file is None:
        return SpecialTokens(), frozenset()
    try:
        encoder = tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # the package raises plain Exception
        raise SourceError(f"{file} is no tokenizer: {one_line(error)}", hint="save the model again") from error
    special = {index for index, token in encoder.get_added_tokens_decoder().items() if token.special}
    return framing(encoder), frozenset(special)


def _inputs(model: TaskModel) -> tuple[InputSpec, ...]:
    pad = model.config.pad_id
    tokens = InputSpec(name="input_ids", dtype="int64", shape=("batch", "length"), pad=pad, role="tokens")
    mask = InputSpec(name="attention_mask", dtype="int64", shape=("batch", "length"), pad=0, role="mask")
    types = InputSpec(name="token_type_ids", dtype="int64", shape=("batch", "length"), pad=0, role="segment-ids")
    return (tokens, mask, types) if model.config.type_vocab_size > 1 else (tokens, mask)


def _quality(source: AdaptiveSource, rows: Sequence[Mapping[str, Any]]) -> tuple[QualityRecord, ...]:
    """The rows of a table of quality as the manifest has them.

    Raises:
        SourceError: a row is not sound.
    """
    records = []
    for row in rows:
        try:
            values: dict[str, Any] = {
                key: row[key] for key in ("min_length", "max_length", "metric", "value", "examples")
            }
            values |= {key: row.get(key) for key in ("loss", "latency_ms")}
            part = source.resolve(SubNetwork.model_validate(row["subnetwork"]))
            records.append(QualityRecord(subnetwork=part, **values))
        except (KeyError, TypeError, ValidationError) as error:
            raise SourceError(
                f"a row of {source.name}/quality.json is not sound: {one_line(error)}",
                hint="`ctx-export evaluate` writes it",
            ) from error
    return tuple(records)
