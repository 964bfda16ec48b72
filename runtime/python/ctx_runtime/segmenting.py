"""Inputs longer than every bucket: windows over their tokens, and the fusion of the windows' outputs. Pure numpy."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ctx_runtime.manifest import Fusion, OutputSpec, SpecialTokens


@dataclass(frozen=True)
class Segment:
    """One window over a row's content, the tokens between its special tokens.

    Attributes:
        start: the first content position of the window.
        owned: the content positions `owned[0]..owned[1]-1` whose outputs are taken from this window.
        indices: positions of the row that make the window, `(window,)`: prefix, content slice, suffix.
    """

    start: int
    owned: tuple[int, int]
    indices: np.ndarray


@dataclass(frozen=True)
class SegmentPlan:
    """The windows of one row, each full, and the number of special tokens that frame each."""

    segments: tuple[Segment, ...]
    prefix: int
    suffix: int


def find_framing(tokens: np.ndarray, special_tokens: SpecialTokens) -> tuple[int, int]:
    """How many special tokens lead and close a row of token ids `(length,)`; `(0, 0)` if it is not framed by both."""
    prefix, suffix = special_tokens.prefix, special_tokens.suffix
    if len(tokens) < len(prefix) + len(suffix):
        return 0, 0
    framed = tuple(tokens[: len(prefix)]) == prefix and tuple(tokens[len(tokens) - len(suffix) :]) == suffix
    return (len(prefix), len(suffix)) if framed else (0, 0)


def plan_segments(length: int, *, window: int, overlap: int, prefix: int = 0, suffix: int = 0) -> SegmentPlan:
    """Cut a row of `length` tokens, longer than `window`, into the fewest full windows that overlap enough.

    Neighbours share at least `overlap` content tokens. The windows stand evenly spaced, so that none is mostly a copy
    of its neighbour. Where two overlap, each content position belongs to the window in which it has more context: the
    overlap is split in the middle, an odd one in favour of the earlier.

    Raises:
        ValueError: the row fits one window, or `overlap` leaves a window no token of its own.
    """
    content, step = window - prefix - suffix, window - prefix - suffix - overlap
    total = length - prefix - suffix
    if length <= window or step < 1:
        raise ValueError(f"no segments of {window} tokens with an overlap of {overlap} in {length} tokens")
    gaps = -(-(total - content) // step)
    starts = [index * (total - content) // gaps for index in range(gaps + 1)]
    cuts = [later + (earlier + content - later + 1) // 2 for earlier, later in itertools.pairwise(starts)]
    head, tail = np.arange(prefix), np.arange(length - suffix, length)
    segments = tuple(
        Segment(start, owned, np.concatenate([head, np.arange(prefix + start, prefix + start + content), tail]))
        for start, owned in zip(starts, zip([0, *cuts], [*cuts, total], strict=True), strict=True)
    )
    return SegmentPlan(segments, prefix, suffix)


def fuse(plan: SegmentPlan, outputs: Sequence[np.ndarray], spec: OutputSpec) -> np.ndarray:
    """One output of a row from the outputs of its windows, none with a batch axis.

    `concat` gives `(length, …)` from `(window, …)`; the poolings give `(…)` from `(…)`: `mean` weights each window
    by the tokens it owns, `attention` also by how close it is to the mean of all.
    """
    if spec.fusion == "concat":
        return _concatenate(plan, outputs, (spec.length_axis or 1) - 1)
    fused = _pool(plan, np.stack(outputs), spec.fusion)
    if spec.normalized:
        fused = fused / np.maximum(np.linalg.norm(fused, axis=-1, keepdims=True), 1e-12)
    return fused.astype(outputs[0].dtype)


def _concatenate(plan: SegmentPlan, outputs: Sequence[np.ndarray], axis: int) -> np.ndarray:
    parts = [_slice(outputs[0], axis, 0, plan.prefix)]
    for segment, output in zip(plan.segments, outputs, strict=True):
        shift = plan.prefix - segment.start
        parts.append(_slice(output, axis, segment.owned[0] + shift, segment.owned[1] + shift))
    last = outputs[-1]
    parts.append(_slice(last, axis, last.shape[axis] - plan.suffix, last.shape[axis]))
    return np.concatenate(parts, axis=axis)


def _slice(array: np.ndarray, axis: int, start: int, stop: int) -> np.ndarray:
    return array[(slice(None),) * axis + (slice(start, stop),)]


def _pool(plan: SegmentPlan, rows: np.ndarray, fusion: Fusion) -> np.ndarray:
    """Fuse `(segments, …)` to `(…)`, in float64."""
    if fusion == "max":
        return np.asarray(rows.max(axis=0))
    weights = np.array([stop - start for start, stop in (segment.owned for segment in plan.segments)], np.float64)
    if fusion == "attention":
        weights *= _closeness(rows.reshape(len(rows), -1).astype(np.float64), weights)
    return np.tensordot(weights / weights.sum(), rows.astype(np.float64), axes=1)


def _closeness(rows: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Softmax over windows of the cosine between each row `(n,)` and their weighted mean."""
    mean = weights @ rows / weights.sum()
    norms = np.linalg.norm(rows, axis=1) * np.linalg.norm(mean)
    cosine = rows @ mean / np.maximum(norms, 1e-12)
    exponentials = np.exp(cosine - cosine.max())
    return np.asarray(exponentials / exponentials.sum())
