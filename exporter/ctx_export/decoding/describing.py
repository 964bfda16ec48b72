"""Which form the graphs of a bundle take, and what its manifest says of them."""

from __future__ import annotations

from collections.abc import Iterable

from ctx_export.decoding.graph import DecoderShape
from ctx_runtime.decoder import DecoderForm, DecoderRecord, DecodingSettings
from ctx_runtime.resource_profile import BackendName, OverflowPolicy


def choose_form(backends: Iterable[BackendName], overflow: OverflowPolicy, shape: DecoderShape) -> DecoderForm:
    """`gqa` where ONNX Runtime's CPU is all that runs the graphs, `attention` everywhere else.

    A full cache that drops old tokens is no longer in order, which the windows of `gqa` go by: a model with windows
    keeps `attention` then, whose masks know positions.
    """
    only_cpu = set(backends) == {"onnxruntime-cpu"}
    ordered = overflow != "sliding" or all(window is None for window in shape.windows)
    return "gqa" if only_cpu and ordered else "attention"


def describe(
    shape: DecoderShape,
    settings: DecodingSettings,
    *,
    form: DecoderForm,
    half: bool = False,
    bos_token_id: int | None = None,
    eos_token_ids: tuple[int, ...] = (),
    chat_template: str | None = None,
) -> DecoderRecord:
    """The manifest's record; see `DecoderRecord`. The cache is in float16 if `half`, else in float32."""
    return DecoderRecord(
        **settings.model_dump(),
        form=form,
        layers=shape.layers,
        kv_heads=shape.kv_heads,
        head_size=shape.head_size,
        cache_dtype="float16" if half else "float32",
        vocab_size=shape.vocab_size,
        sliding_window=next((window for window in shape.windows if window is not None), None),
        bos_token_id=bos_token_id,
        eos_token_ids=eos_token_ids,
        chat_template=chat_template,
    )
