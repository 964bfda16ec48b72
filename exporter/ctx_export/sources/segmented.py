"""A length-adaptive model in three, for inputs in segments: each segment, their fusion, and the way back to tokens."""

from __future__ import annotations

import torch

from ctx_export.sources.source import FusionParts, Source
from ctx_models.encoder import LengthAdaptiveEncoder
from ctx_models.heads import TaskModel
from ctx_runtime.manifest import FusionRecord, InputSpec, OutputSpec, State


def split_for_segments(source: Source, model: TaskModel) -> FusionParts | None:
    """The parts of `model`, which `source` describes; None if it takes no input longer than one segment."""
    segment, encoder = model.config.segment, model.backbone
    if segment is None or not isinstance(encoder, LengthAdaptiveEncoder):
        return None
    record = FusionRecord(
        segment="graphs/segment.onnx",
        fuse="graphs/fuse.onnx",
        finish=None if model.reads_documents else "graphs/finish.onnx",
        hidden_size=model.config.hidden_size,
        summaries=1 + segment.summaries,
        prefix=segment.prefix,
        suffix=segment.suffix,
        golden="parity/fusion.npz",
    )
    return FusionParts(
        window=segment.length,
        overlap=segment.overlap,
        record=record,
        segment=_segment(source, record, encoder),
        fuse=_fuse(source, record, model, encoder),
        finish=None if record.finish is None else _finish(source, record, model, encoder),
    )


def _segment(source: Source, record: FusionRecord, encoder: LengthAdaptiveEncoder) -> Source:
    names: tuple[State, ...] = ("summary",) if record.finish is None else ("summary", "hidden")
    rows = tuple(spec for spec in source.inputs if spec.role != "mask")
    return _part(source, "segments", _Segment(encoder, names), rows, tuple(_made(record, name) for name in names))


def _fuse(source: Source, record: FusionRecord, model: TaskModel, encoder: LengthAdaptiveEncoder) -> Source:
    made = source.outputs if record.finish is None else (_made(record, "contexts"),)
    return _part(source, "fusion", _Fuse(model, encoder), (_given(record, "summaries"),), made)


def _finish(source: Source, record: FusionRecord, model: TaskModel, encoder: LengthAdaptiveEncoder) -> Source:
    given = (_given(record, "hidden"), _given(record, "context"))
    return _part(source, "last step", _Finish(model, encoder), given, source.outputs)


def _part(
    source: Source,
    name: str,
    module: torch.nn.Module,
    inputs: tuple[InputSpec, ...],
    outputs: tuple[OutputSpec, ...],
) -> Source:
    return Source(
        name=f"{source.name}: {name}",
        task=source.task,
        record=source.record,
        module=module.eval(),
        inputs=inputs,
        outputs=outputs,
        max_length=source.max_length,
        special_tokens=source.special_tokens,
        tokenizer=None,
        via=source.via,
        values=source.values,
    )


def _given(record: FusionRecord, name: State) -> InputSpec:
    return InputSpec(**record.state(name).model_dump(), pad=0.0)


def _made(record: FusionRecord, name: State) -> OutputSpec:
    return OutputSpec(**record.state(name).model_dump(), fusion="concat")


class _Segment(torch.nn.Module):
    """Segments, each for itself."""

    def __init__(self, encoder: LengthAdaptiveEncoder, names: tuple[str, ...]) -> None:
        super().__init__()
        self.encoder, self.names = encoder, names

    def forward(self, input_ids: torch.Tensor, token_type_ids: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        """Ids and types `(segments, length)` to `summary` and `hidden`, as far as they are asked for."""
        hidden, summary = self.encoder.segment(input_ids, token_type_ids=token_type_ids)
        return {name: {"summary": summary, "hidden": hidden}[name] for name in self.names}


class _Fuse(torch.nn.Module):
    """All segments of each document."""

    def __init__(self, model: TaskModel, encoder: LengthAdaptiveEncoder) -> None:
        super().__init__()
        self.model, self.encoder = model, encoder

    def forward(self, summaries: torch.Tensor) -> dict[str, torch.Tensor]:
        """`(documents, segments, rows, hidden)` to `contexts` of the same shape, or to the outputs of documents."""
        contexts = self.encoder.fuse(summaries)
        if self.model.reads_documents:
            return self.model.read_documents(self.encoder.document(summaries, contexts))
        return {"contexts": contexts}


class _Finish(torch.nn.Module):
    """Segments in their context."""

    def __init__(self, model: TaskModel, encoder: LengthAdaptiveEncoder) -> None:
        super().__init__()
        self.model, self.encoder = model, encoder

    def forward(self, hidden: torch.Tensor, context: torch.Tensor) -> dict[str, torch.Tensor]:
        """States `(segments, length, hidden)` and contexts `(segments, rows, hidden)` to the outputs of tokens."""
        return self.model.read_tokens(self.encoder.finish(hidden, context))
