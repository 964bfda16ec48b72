"""`Source`: a PyTorch model that the build can run, with its inputs and outputs described."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from pydantic import ValidationError

from ctx_export.subnetworks import Rotation
from ctx_runtime.errors import SourceError
from ctx_runtime.manifest import (
    DType,
    FusionRecord,
    InputSpec,
    OutputSpec,
    QualityRecord,
    SourceRecord,
    SpecialTokens,
)
from ctx_runtime.resource_profile import SubNetwork

_BATCHES = (2, 3)
"""Rows of the two runs that show which dimensions of an output follow the batch and which the length."""
_MAX_RANK = 8
_MANY_SEGMENTS = 64
"""Segments of the longest row that a fusion is proven with; its graph takes any number."""


@dataclass(frozen=True)
class Values:
    """What an integer input may hold: `low..high`, but none of `avoid`."""

    low: int
    high: int
    avoid: frozenset[int] = frozenset()

    def draw(self, random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        """Uniformly random values of this shape, int64; where all are to be avoided, any of `low..high`."""
        avoided = sorted(value for value in self.avoid if self.low <= value <= self.high)
        count = self.high - self.low + 1 - len(avoided)
        if count == 0:
            return random.integers(self.low, self.high, shape, endpoint=True)
        values = random.integers(self.low, self.low + count, shape)
        for value in avoided:
            values += values >= value
        return values


@dataclass(frozen=True, eq=False)
class Source:
    """A PyTorch model with all that its export, its proof and its bundle need.

    Attributes:
        name: the bundle's name, unless the user gives another.
        task: `feature-extraction`, `text-classification`, …; `custom` for a plain module.
        record: where it came from, and the sha256 of its weights and configuration.
        module: in eval mode; `module(**inputs)` returns a dict with exactly the names of `outputs`.
        inputs: in the order of the graph's inputs.
        outputs: in the order of the graph's outputs.
        max_length: the longest its positions allow, in tokens; None: no bound of its own.
        special_tokens: what its tokenizer puts around a text.
        tokenizer: a `tokenizer.json`, None for a model without.
        via: which exporter: transformers' own, for what is built of its layers, or `torch.onnx.export`.
        values: what each integer input may hold, for examples.
        steps: which sub-network the model wants up to which length, ascending; empty: it does not say.
        quality: what is known of its sub-networks by length.
        fusion: how it joins the segments of long inputs itself; None: it does not.
    """

    name: str
    task: str
    record: SourceRecord
    module: torch.nn.Module
    inputs: tuple[InputSpec, ...]
    outputs: tuple[OutputSpec, ...]
    max_length: int | None
    special_tokens: SpecialTokens
    tokenizer: Path | None
    via: Literal["transformers", "torch"]
    values: Mapping[str, Values]
    steps: tuple[tuple[int, SubNetwork | None], ...] = ()
    quality: tuple[QualityRecord, ...] = ()
    fusion: FusionParts | None = None

    def example(self, batch: int, lengths: Sequence[int], *, seed: int = 0) -> dict[str, np.ndarray]:
        """Valid random inputs `(batch, max(lengths), …)`; rows shorter than the longest are padded and masked.

        Token ids are ordinary ones, framed by the special tokens where a row is long enough to hold them.

        Args:
            batch: rows.
            lengths: tokens of each row.
            seed: of the random numbers.
        """
        if len(lengths) != batch:
            raise ValueError(f"{batch} rows need {batch} lengths, got {len(lengths)}")
        return make_example(self.inputs, self.values, lengths, special_tokens=self.special_tokens, seed=seed)

    def run(self, arrays: Mapping[str, np.ndarray], part: SubNetwork | None = None) -> dict[str, np.ndarray]:
        """PyTorch's outputs for `arrays`, which may hold more than the inputs.

        Args:
            arrays: `(batch, length, …)` by name.
            part: the sub-network that runs, as `resolve` gives it.

        Raises:
            SourceError: the module's forward fails.
        """
        inputs = {spec.name: arrays[spec.name] for spec in self.inputs}
        outputs = forward(self.module, inputs, **self._options(part))
        return {name: tensor.numpy() for name, tensor in outputs.items()}

    def resolve(self, part: SubNetwork | None) -> SubNetwork | None:
        """The sub-network `part` in the one form that names it: without numbers that are all there is.

        Raises:
            SourceError: the model does not have it.
        """
        if part is not None:
            raise SourceError(
                f"{self.name} has no sub-networks", hint="remove `subnetwork` from the profile, or train one that has"
            )
        return None

    def rotation(self, part: SubNetwork | None) -> Rotation | None:
        """The rotary positions of `part`, where they are others than the whole network's."""
        return None

    def _options(self, part: SubNetwork | None) -> dict[str, object]:
        """What the module's forward takes to run `part`."""
        return {}


@dataclass(frozen=True, eq=False)
class FusionParts:
    """A model in three, for inputs longer than it takes in one piece.

    Attributes:
        window: tokens of a segment; the longest input that runs in one piece.
        overlap: tokens that neighbouring segments share at least.
        record: the files of the three graphs and what they pass on.
        segment: one segment, for itself.
        fuse: the summaries of all segments of a row; its length is their number.
        finish: one segment with its context; None where no output has a length.
    """

    window: int
    overlap: int
    record: FusionRecord
    segment: Source
    fuse: Source
    finish: Source | None

    def parts(self) -> dict[str, tuple[Source, int]]:
        """Each part by its file, with the longest input that it is exported for, in tokens or segments."""
        parts = {self.record.segment: (self.segment, self.window), self.record.fuse: (self.fuse, _MANY_SEGMENTS)}
        if self.record.finish is not None and self.finish is not None:
            parts[self.record.finish] = (self.finish, self.window)
        return parts


def make_example(
    inputs: Sequence[InputSpec],
    values: Mapping[str, Values],
    lengths: Sequence[int],
    *,
    special_tokens: SpecialTokens = SpecialTokens(),  # noqa: B008 (frozen)
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Random arrays for `inputs`; see `Source.example`."""
    random = np.random.default_rng(seed)
    real = np.arange(max(lengths)) < np.asarray(lengths)[:, None]
    arrays: dict[str, np.ndarray] = {}
    for spec in inputs:
        sizes = {"batch": len(lengths), "length": max(lengths)}
        shape = tuple(sizes[dim] if isinstance(dim, str) else dim for dim in spec.shape)
        array: np.ndarray
        if spec.role == "mask":
            array = real
        elif spec.name in values:
            array = values[spec.name].draw(random, shape)
        else:
            array = random.normal(size=shape)
        if spec.role == "tokens":
            _frame(array, lengths, special_tokens)
        if spec.length_axis is not None:
            array = np.where(real.reshape(*real.shape, *[1] * (array.ndim - 2)), array, spec.pad)
        arrays[spec.name] = array.astype(spec.dtype)
    return arrays


def _frame(ids: np.ndarray, lengths: Sequence[int], special: SpecialTokens) -> None:
    """Put the special tokens around each row of `ids` `(batch, length)` that is long enough for them."""
    for row, length in zip(ids, lengths, strict=True):
        if length >= len(special.prefix) + len(special.suffix):
            row[: len(special.prefix)] = special.prefix
            row[length - len(special.suffix) : length] = special.suffix


def forward(module: torch.nn.Module, arrays: Mapping[str, np.ndarray], **options: object) -> dict[str, torch.Tensor]:
    """The module's outputs by name, without gradients.

    Raises:
        SourceError: its forward fails.
    """
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    try:
        with torch.no_grad():
            outputs: dict[str, torch.Tensor] = module(**tensors, **options)
    except SourceError:
        raise
    except Exception as error:  # whatever a forward may raise
        shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in tensors.items())
        raise SourceError(
            f"the model fails for {shapes}: {one_line(error)}",
            hint="its forward must take its inputs by name, at every batch and length",
        ) from error
    return outputs


def describe_outputs(
    module: torch.nn.Module,
    inputs: Sequence[InputSpec],
    values: Mapping[str, Values],
    *,
    lengths: tuple[int, int],
    normalized: Sequence[str] = (),
) -> tuple[OutputSpec, ...]:
    """Describe the outputs of `module`, found by running it at two batches and two lengths.

    Args:
        module: returns a dict of tensors.
        inputs: its inputs.
        values: what its integer inputs may hold.
        lengths: two different lengths to run it at, in tokens.
        normalized: the outputs whose rows have unit length.

    Raises:
        SourceError: it fails, or the shape or dtype of an output can't be described.
    """
    sizes = tuple(zip(_BATCHES, lengths, strict=True))
    runs = [forward(module, make_example(inputs, values, [length] * batch)) for batch, length in sizes]
    if not runs[0]:
        raise SourceError("the model returns nothing", hint="return a tensor, a tuple or a dict of tensors")
    clash = {spec.name for spec in inputs}.intersection(runs[0])
    if clash:
        raise SourceError(f"output {min(clash)!r} has the name of an input", hint="return it under another name")
    specs: list[OutputSpec] = []
    for name, first in runs[0].items():
        shape = _symbolic_shape(name, (tuple(first.shape), tuple(runs[1][name].shape)), lengths)
        fusion: Literal["concat", "mean"] = "concat" if "length" in shape else "mean"
        dtype = dtype_of(f"output {name!r}", first)
        try:
            spec = OutputSpec(name=name, dtype=dtype, shape=shape, fusion=fusion, normalized=name in normalized)
        except ValidationError as error:
            raise SourceError(
                f"output {name!r}: {error.errors()[0]['msg']}", hint="return it under another name"
            ) from None
        specs.append(spec)
    return tuple(specs)


def _symbolic_shape(
    name: str, shapes: tuple[tuple[int, ...], tuple[int, ...]], lengths: tuple[int, int]
) -> tuple[int | Literal["batch", "length"], ...]:
    """The shape of an output with `batch` and `length` in it, from its sizes in two runs."""
    known: dict[tuple[int, int], Literal["batch", "length"]] = {_BATCHES: "batch", lengths: "length"}
    first, second = shapes
    shape: list[int | Literal["batch", "length"]] = []
    for axis, sizes in enumerate(zip(first, second, strict=True) if len(first) == len(second) else ()):
        if sizes[0] != sizes[1] and sizes not in known:
            raise SourceError(
                f"dimension {axis} of output {name!r} is {sizes[0]} and {sizes[1]} at lengths {lengths[0]} and "
                f"{lengths[1]}: it is neither the batch, the length nor a constant",
                hint="return one value or row for each token, or one for the whole input",
            )
        shape.append(sizes[0] if sizes[0] == sizes[1] else known[sizes])
    sound = shape[:1] == ["batch"] and shape.count("batch") == 1 and shape.count("length") <= 1 and 0 not in shape
    if not sound or len(shape) > _MAX_RANK:
        raise SourceError(
            f"output {name!r} has the shape ({', '.join(map(str, shape or first))})",
            hint="an output is (batch, …) with at most one dimension that follows the length",
        )
    return tuple(shape)


def dtype_of(what: str, tensor: torch.Tensor) -> DType:
    """The manifest's word for a tensor's dtype.

    Raises:
        SourceError: bundles hold no tensors of this dtype.
    """
    dtype = str(tensor.dtype).removeprefix("torch.")
    for supported in get_args(DType):
        if dtype == supported:
            found: DType = supported
            return found
    raise SourceError(f"{what} is {dtype}; supported are {', '.join(get_args(DType))}")


def clean_name(name: str) -> str:
    """`name` as manifests allow it: letters, digits and `_.:/-`."""
    return re.sub(r"[^A-Za-z0-9_.:/-]+", "-", name)[:256] or "model"


def one_line(error: BaseException) -> str:
    """The first line of an error that says something."""
    lines: Iterable[str] = (line.strip() for line in str(error).splitlines())
    line = next((line for line in lines if line), type(error).__name__)
    return f"KeyError: {line}" if isinstance(error, KeyError) else line  # which says the key and nothing else
