"""Inputs of an application -> checked rows -> a padded batch -> the outputs of each row. Pure numpy."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ctx_runtime.errors import BackendError, InputError
from ctx_runtime.manifest import InputSpec, OutputSpec, TensorSpec

_OPTIONAL = ("mask", "segment-ids")
"""Roles that the runtime fills in: ones for the mask, zeros for segment ids."""


class Row(NamedTuple):
    """One input of its own length: a batch of one, without the mask.

    Attributes:
        arrays: by name, each of the manifest's dtype; `(1, length, …)` where it has a length axis.
        length: in tokens.
    """

    arrays: dict[str, np.ndarray]
    length: int


class _Shape(NamedTuple):
    """The shape of an input or output: `(batch, *before, length, *after)`, or `(batch, *before)` without a length axis.

    Attributes:
        axis: the length axis, if there is one.
    """

    before: tuple[int, ...]
    axis: int | None
    after: tuple[int, ...]

    def sized(self, batch: int, length: int) -> tuple[int, ...]:
        """The shape of `batch` rows of `length` tokens."""
        return (batch, *self.before) if self.axis is None else (batch, *self.before, length, *self.after)


class RowLayout:
    """How rows stand in the inputs and outputs of a bundle's graphs.

    A run leaves the processor's caches cold, so that each step costs tens of microseconds: what depends on the manifest
    alone is worked out once, and a full row that is alone in its batch is passed on as it came.
    """

    def __init__(self, inputs: Sequence[InputSpec], outputs: Sequence[OutputSpec]) -> None:
        self._inputs = {spec.name: spec for spec in inputs}
        self._outputs = [spec.name for spec in outputs]
        self._dtypes = {spec.name: np.dtype(spec.dtype) for spec in inputs}
        self._shapes = {spec.name: _shape(spec) for spec in (*inputs, *outputs)}
        grown = [(spec, axis) for spec in inputs if (axis := spec.length_axis) is not None]
        first, self._first_axis = min(grown, key=lambda found: found[0].role in _OPTIONAL)
        self._first, self._first_rank = first.name, len(first.shape)
        self._required = {spec.name for spec in inputs if spec.role not in _OPTIONAL} | {first.name}
        self._filled = [spec.name for spec in inputs if spec.role == "segment-ids"]
        self.mask = next((spec.name for spec in inputs if spec.role == "mask"), None)
        self.tokens = next((spec.name for spec in inputs if spec.role == "tokens"), None)
        self._unmasked = {name: dtype for name, dtype in self._dtypes.items() if name != self.mask}
        self._sized = functools.lru_cache(maxsize=1024)(self._new_sized)

    def whole_row(self, inputs: Mapping[str, ArrayLike]) -> Row | None:
        """`inputs` as they came, where they are one full row without a mask and need nothing; else None: see `read`.

        Raises:
            InputError: a negative token id.
        """
        first = inputs.get(self._first)
        if type(first) is not np.ndarray or first.ndim != self._first_rank or len(inputs) != len(self._unmasked):
            return None
        length = first.shape[self._first_axis]
        shapes, arrays = self._sized(1, length), {}
        for name, dtype in self._unmasked.items():
            array = inputs.get(name)
            if type(array) is not np.ndarray or array.dtype != dtype or array.shape != shapes[name]:
                return None
            arrays[name] = array
        if length == 0:
            return None
        if self.tokens is not None:
            _check_tokens(self.tokens, arrays[self.tokens])
        return Row(arrays, length)

    def read(self, inputs: Mapping[str, ArrayLike]) -> tuple[list[Row], bool]:
        """The rows of `inputs`, and whether they came with a batch axis.

        Arrays are `(batch, length, …)`, or `(length, …)` for a single row. A mask says where each row ends; without
        one all rows are full. The mask and segment ids may be left out.

        Raises:
            InputError: an unknown or missing input, a wrong dtype, rank or size, an empty row, a negative token id, or
                a mask that is not ones followed by zeros.
        """
        arrays: dict[str, np.ndarray] = {}
        for name, dtype in self._dtypes.items():
            if name in inputs:
                arrays[name] = _as_array(name, inputs[name], dtype)
            elif name in self._required:
                raise self._misnamed(inputs)
        if len(arrays) < len(inputs):
            raise self._misnamed(inputs)
        batched = arrays[self._first].ndim == self._first_rank
        if not batched:
            arrays = {name: array[np.newaxis] for name, array in arrays.items()}
        batch, longest = self._check_shapes(arrays, batched)
        if self.tokens is not None:
            _check_tokens(self.tokens, arrays[self.tokens])
        for name in self._filled:
            if name not in arrays:
                arrays[name] = np.zeros((batch, longest), self._dtypes[name])
        mask = None if self.mask is None else arrays.pop(self.mask, None)
        lengths = [longest] * batch if mask is None else _row_lengths(str(self.mask), mask)
        return [*map(Row, self._split(arrays, lengths, longest), lengths)], batched

    def take(self, row: Row, positions: np.ndarray) -> Row:
        """The row with only `positions` `(n,)` of every input that has a length axis."""
        arrays = {
            name: array if (axis := self._shapes[name].axis) is None else np.take(array, positions, axis=axis)
            for name, array in row.arrays.items()
        }
        return Row(arrays, len(positions))

    def stack(self, rows: Sequence[Row], names: frozenset[str]) -> dict[str, np.ndarray]:
        """Feeds `(batch, longest, …)` for the inputs `names`, rows padded to the longest with each input's pad."""
        if len(rows) == 1 and rows[0].arrays.keys() == names:
            return rows[0].arrays
        if len(rows) == 1:
            feeds = {name: array for name, array in rows[0].arrays.items() if name in names}
        else:
            feeds = {
                name: self._concatenated(name, [row.arrays[name] for row in rows], self._inputs[name].pad)
                for name in rows[0].arrays
                if name in names
            }
        if self.mask is not None and self.mask in names:
            lengths = np.array([[row.length] for row in rows])
            feeds[self.mask] = (np.arange(lengths.max()) < lengths).astype(self._dtypes[self.mask])
        return feeds

    def unstack(self, outputs: dict[str, np.ndarray], lengths: Sequence[int]) -> list[dict[str, np.ndarray]]:
        """The outputs `(1, length, …)` of each row of a batch, cropped to its length.

        Raises:
            BackendError: an output is not of the manifest's shape: the graph is not what its bundle says.
        """
        longest = max(lengths)
        self.check(outputs, len(lengths), longest)
        return self._split(outputs, lengths, longest)

    def check(self, outputs: Mapping[str, np.ndarray], batch: int, length: int) -> None:
        """Hold the outputs of `batch` rows of `length` tokens to the manifest's shapes.

        Raises:
            BackendError: one has another: the graph is not what its bundle says.
        """
        shapes = self._sized(batch, length)
        for name in self._outputs:
            if outputs[name].shape != shapes[name]:
                raise BackendError(f"output {name!r} has shape {outputs[name].shape}, expected {shapes[name]}")

    def join(self, rows: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """The outputs of rows, each `(1, length, …)`, in one batch; token outputs of shorter rows end in zeros."""
        if len(rows) == 1:
            return rows[0]
        return {name: self._concatenated(name, [row[name] for row in rows], 0) for name in self._outputs}

    def _new_sized(self, batch: int, length: int) -> dict[str, tuple[int, ...]]:
        """The shape of every input and output for `batch` rows of `length` tokens."""
        return {name: shape.sized(batch, length) for name, shape in self._shapes.items()}

    def _misnamed(self, inputs: Mapping[str, ArrayLike]) -> InputError:
        wrong = next((f"unknown input {name!r}" for name in inputs if name not in self._inputs), None)
        wrong = wrong or f"input {min(self._required - inputs.keys())!r} is missing"
        return InputError(wrong, hint=f"the bundle takes {', '.join(self._inputs)}")

    def _check_shapes(self, arrays: Mapping[str, np.ndarray], batched: bool) -> tuple[int, int]:
        """Hold `arrays` `(batch, …)` to the manifest's shapes; the batch and the length that they agree on."""
        first = arrays[self._first].shape
        if len(first) != self._first_rank:
            raise _misshapen(self._inputs[self._first], first, batched)
        batch, length = first[0], first[self._first_axis]
        shapes = self._sized(batch, length)
        for name, array in arrays.items():
            if array.shape != shapes[name]:
                raise _misshapen(self._inputs[name], array.shape, batched, batch=batch, length=length)
        if batch == 0 or length == 0:
            raise InputError("the input is empty", hint="give at least one row of at least one token")
        return batch, length

    def _split(
        self, arrays: dict[str, np.ndarray], lengths: Sequence[int], longest: int
    ) -> list[dict[str, np.ndarray]]:
        """The arrays `(1, length, …)` of each row of a batch `(batch, longest, …)`."""
        if len(lengths) == 1 and lengths[0] == longest:
            return [arrays]
        return [
            {name: self._cropped(name, array[index : index + 1], length) for name, array in arrays.items()}
            for index, length in enumerate(lengths)
        ]

    def _cropped(self, name: str, array: np.ndarray, length: int) -> np.ndarray:
        axis = self._shapes[name].axis
        return array if axis is None else array[(slice(None),) * axis + (slice(length),)]

    def _concatenated(self, name: str, arrays: Sequence[np.ndarray], fill: float) -> np.ndarray:
        """One batch of `arrays` `(1, length, …)` of an input or output, filled up to the longest."""
        axis = self._shapes[name].axis
        if axis is not None:
            longest = max(array.shape[axis] for array in arrays)
            arrays = [_lengthened(array, axis, longest, fill) for array in arrays]
        return np.concatenate(arrays)


def _shape(spec: TensorSpec) -> _Shape:
    """`spec.shape` around its length axis; the manifest has its batch axis first, and only there."""
    axis = spec.length_axis
    fixed = [dim for dim in spec.shape if isinstance(dim, int)]
    before = len(fixed) if axis is None else axis - 1
    return _Shape(tuple(fixed[:before]), axis, tuple(fixed[before:]))


def _lengthened(array: np.ndarray, axis: int, length: int, value: float) -> np.ndarray:
    if array.shape[axis] == length:
        return array
    widths = [(0, length - size if index == axis else 0) for index, size in enumerate(array.shape)]
    return np.pad(array, widths, constant_values=value)


def _misshapen(spec: InputSpec, shape: tuple[int, ...], batched: bool, **sizes: int) -> InputError:
    """The error of an input of `shape` `(batch, …)`, told as the caller gave it; `sizes` are those of other inputs."""
    expected, found = (spec.shape, shape) if batched else (spec.shape[1:], shape[1:])
    return InputError(
        f"input {spec.name!r} has shape {found}, expected ({', '.join(map(str, expected))})"
        + "".join(f", {name} = {size}" for name, size in sizes.items() if name in expected)
    )


def _as_array(name: str, value: ArrayLike, wanted: np.dtype) -> np.ndarray:
    """`value` in the dtype `wanted`, if no value can be lost."""
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise InputError(
            f"input {name!r} is not an array: {error}", hint="give rows of one length, or a mask"
        ) from error
    return array if array.dtype == wanted else _cast(name, array, wanted)


def _cast(name: str, array: np.ndarray, wanted: np.dtype) -> np.ndarray:
    if array.size == 0:
        return array.astype(wanted)
    if array.dtype.kind in "biuf" and np.can_cast(array.dtype, wanted, "same_kind"):
        cast = array.astype(wanted)
        if wanted.kind == "f" or np.array_equal(cast, array):
            return cast
    elif array.dtype.kind in "iu" and wanted.kind in "ib":
        cast = array.astype(wanted)
        if np.array_equal(cast, array):
            return cast
    raise InputError(f"input {name!r} is {array.dtype}, which does not fit {wanted}")


def _check_tokens(name: str, tokens: np.ndarray) -> None:
    """Raise InputError if an id is negative: a graph would take it to count from the end of its vocabulary."""
    if min(tokens.ravel().tolist()) < 0:  # in cold caches a fifth of the time of `tokens.min()`, which is a ufunc
        raise InputError(f"input {name!r} has a negative token id")


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
