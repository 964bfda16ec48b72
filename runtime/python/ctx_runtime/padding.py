"""Inputs of an application -> checked rows -> a padded batch -> the outputs of each row. Pure numpy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ctx_runtime.errors import BackendError, InputError
from ctx_runtime.manifest import InputSpec, OutputSpec

_OPTIONAL = ("mask", "segment-ids")
"""Roles that the runtime fills in: ones for the mask, zeros for segment ids."""


class Row(NamedTuple):
    """One input of its own length: arrays without a batch axis and without the mask.

    Attributes:
        arrays: by name, each of the manifest's dtype; `(length, …)` where it has a length axis.
        length: in tokens.
    """

    arrays: dict[str, np.ndarray]
    length: int


class RowLayout:
    """How rows stand in the inputs and outputs of a bundle's graphs.

    What depends on the manifest alone is worked out once, so that a run spends microseconds on it.
    """

    def __init__(self, inputs: Sequence[InputSpec], outputs: Sequence[OutputSpec]) -> None:
        self._inputs = {spec.name: spec for spec in inputs}
        self._dtypes = {spec.name: np.dtype(spec.dtype) for spec in inputs}
        self._axes = {spec.name: spec.length_axis for spec in (*inputs, *outputs)}
        self._required = frozenset(spec.name for spec in inputs if spec.role not in _OPTIONAL)
        self._outputs = {spec.name: spec.shape for spec in outputs}
        self._filled = [spec.name for spec in inputs if spec.role == "segment-ids"]
        self.mask = next((spec.name for spec in inputs if spec.role == "mask"), None)
        self.tokens = next((spec.name for spec in inputs if spec.role == "tokens"), None)

    def read(self, inputs: Mapping[str, ArrayLike]) -> tuple[list[Row], bool]:
        """The rows of `inputs`, and whether they came with a batch axis.

        Arrays are `(batch, length, …)`, or `(length, …)` for a single row. A mask says where each row ends; without
        one all rows are full. The mask and segment ids may be left out.

        Raises:
            InputError: an unknown or missing input, a wrong dtype, rank or size, an empty row, a negative token id, or
                a mask that is not ones followed by zeros.
        """
        self._check_names(inputs)
        arrays: dict[str, np.ndarray] = {}
        sizes: dict[str, int] = {}
        batched: bool | None = None
        for name, spec in self._inputs.items():
            if name in inputs:
                array = _as_array(name, inputs[name])
                batched = array.ndim == len(spec.shape) if batched is None else batched
                array = array if batched else array[np.newaxis]
                _check_shape(spec, array, sizes, bool(batched))
                arrays[name] = _cast(name, array, self._dtypes[name])
        batch, longest = sizes["batch"], sizes["length"]
        if batch == 0 or longest == 0:
            raise InputError("the input is empty", hint="give at least one row of at least one token")
        if self.tokens is not None and np.minimum.reduce(arrays[self.tokens], axis=None) < 0:
            raise InputError(f"input {self.tokens!r} has a negative token id")
        for name in self._filled:
            if name not in arrays:
                arrays[name] = np.zeros((batch, longest), self._dtypes[name])
        mask = None if self.mask is None else arrays.pop(self.mask, None)
        lengths = [longest] * batch if mask is None else _row_lengths(str(self.mask), mask)
        return [self._row(arrays, index, length) for index, length in enumerate(lengths)], bool(batched)

    def take(self, row: Row, positions: np.ndarray) -> Row:
        """The row with only `positions` `(n,)` of every input that has a length axis."""
        arrays = {
            name: array if (axis := self._axes[name]) is None else np.take(array, positions, axis=axis - 1)
            for name, array in row.arrays.items()
        }
        return Row(arrays, len(positions))

    def stack(self, rows: Sequence[Row], names: frozenset[str]) -> dict[str, np.ndarray]:
        """Feeds `(batch, longest, …)` for the inputs `names`, rows padded to the longest with each input's pad."""
        if len(rows) == 1:
            feeds = {name: array[np.newaxis] for name, array in rows[0].arrays.items() if name in names}
        else:
            longest = max(row.length for row in rows)
            feeds = {
                name: np.stack([self._padded(row.arrays[name], name, longest) for row in rows])
                for name in rows[0].arrays
                if name in names
            }
        if self.mask is not None and self.mask in names:
            lengths = np.array([[row.length] for row in rows])
            feeds[self.mask] = (np.arange(lengths.max()) < lengths).astype(self._dtypes[self.mask])
        return feeds

    def check_outputs(self, outputs: Mapping[str, np.ndarray], batch: int, length: int) -> None:
        """Hold the outputs of a run to the manifest's shapes.

        Raises:
            BackendError: the graph is not what its bundle says.
        """
        sizes = {"batch": batch, "length": length}
        for name, shape in self._outputs.items():
            expected = tuple([sizes[dim] if isinstance(dim, str) else dim for dim in shape])
            if outputs[name].shape != expected:
                raise BackendError(f"output {name!r} has shape {outputs[name].shape}, expected {expected}")

    def unstack(self, outputs: Mapping[str, np.ndarray], index: int, length: int) -> dict[str, np.ndarray]:
        """The outputs of row `index` of a batch, without the batch axis, cropped to its `length`."""
        return {name: self._cropped(outputs[name][index], name, length) for name in self._outputs}

    def join(self, rows: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """The outputs of rows under one batch axis; token outputs of shorter rows end in zeros."""
        if len(rows) == 1:
            return {name: array[np.newaxis] for name, array in rows[0].items()}
        joined: dict[str, np.ndarray] = {}
        for name in self._outputs:
            arrays, axis = [row[name] for row in rows], self._axes[name]
            if axis is not None:
                longest = max(array.shape[axis - 1] for array in arrays)
                arrays = [_lengthened(array, axis - 1, longest, 0) for array in arrays]
            joined[name] = np.stack(arrays)
        return joined

    def _check_names(self, inputs: Mapping[str, ArrayLike]) -> None:
        wrong = next((f"unknown input {name!r}" for name in inputs if name not in self._inputs), None)
        if wrong is None and not self._required <= inputs.keys():
            wrong = f"input {min(self._required - inputs.keys())!r} is missing"
        if wrong is not None:
            raise InputError(wrong, hint=f"the bundle takes {', '.join(self._inputs)}")

    def _row(self, arrays: Mapping[str, np.ndarray], index: int, length: int) -> Row:
        return Row({name: self._cropped(array[index], name, length) for name, array in arrays.items()}, length)

    def _cropped(self, array: np.ndarray, name: str, length: int) -> np.ndarray:
        """One row's array of input or output `name`, no longer than `length`."""
        axis = self._axes[name]
        if axis is None or array.shape[axis - 1] == length:
            return array
        return array[(slice(None),) * (axis - 1) + (slice(length),)]

    def _padded(self, array: np.ndarray, name: str, longest: int) -> np.ndarray:
        axis = self._axes[name]
        return array if axis is None else _lengthened(array, axis - 1, longest, self._inputs[name].pad)


def _lengthened(array: np.ndarray, axis: int, length: int, value: float) -> np.ndarray:
    if array.shape[axis] == length:
        return array
    widths = [(0, length - size if index == axis else 0) for index, size in enumerate(array.shape)]
    return np.pad(array, widths, constant_values=value)


def _as_array(name: str, value: ArrayLike) -> np.ndarray:
    try:
        return np.asarray(value)
    except ValueError as error:
        raise InputError(
            f"input {name!r} is not an array: {error}", hint="give rows of one length, or a mask"
        ) from error


def _check_shape(spec: InputSpec, array: np.ndarray, sizes: dict[str, int], batched: bool) -> None:
    """Hold `array` `(batch, …)` to the spec's rank and sizes; `sizes` collects batch and length."""
    fits = array.ndim == len(spec.shape)
    if fits:
        for dim, size in zip(spec.shape, array.shape, strict=True):
            fits = fits and size == (dim if isinstance(dim, int) else sizes.setdefault(dim, size))
    if not fits:
        expected, found = (spec.shape, array.shape) if batched else (spec.shape[1:], array.shape[1:])
        raise InputError(
            f"input {spec.name!r} has shape {found}, expected ({', '.join(map(str, expected))})"
            + "".join(f", {name} = {size}" for name, size in sizes.items() if name in expected)
        )


def _cast(name: str, array: np.ndarray, wanted: np.dtype) -> np.ndarray:
    """`array` in the dtype `wanted`, if no value can be lost."""
    if array.dtype == wanted or array.size == 0:
        return array.astype(wanted, copy=False)
    if array.dtype.kind in "biuf" and np.can_cast(array.dtype, wanted, "same_kind"):
        cast = array.astype(wanted)
        if wanted.kind == "f" or np.array_equal(cast, array):
            return cast
    elif array.dtype.kind in "iu" and wanted.kind in "ib":
        cast = array.astype(wanted)
        if np.array_equal(cast, array):
            return cast
    raise InputError(f"input {name!r} is {array.dtype}, which does not fit {wanted}")


def _row_lengths(name: str, mask: np.ndarray) -> list[int]:
    """The number of ones of each row of a mask `(batch, length)`."""
    lengths = (mask != 0).sum(axis=1)
    if not np.array_equal(mask, np.arange(mask.shape[1]) < lengths[:, np.newaxis]):
        raise InputError(
            f"input {name!r} must be ones followed by zeros in every row", hint="pad on the right, not on the left"
        )
    if not lengths.all():
        raise InputError(f"a row of {name!r} has no ones: the row is empty")
    return [int(length) for length in lengths]
