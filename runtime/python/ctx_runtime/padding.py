"""Inputs of an application -> checked rows; rows -> a padded batch. Pure numpy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ctx_runtime.errors import InputError
from ctx_runtime.manifest import InputSpec, Manifest

_OPTIONAL = ("mask", "segment-ids")
"""Roles that the runtime fills in: ones for the mask, zeros for segment ids."""


@dataclass(frozen=True)
class Row:
    """One input of its own length: arrays without a batch axis and without the mask.

    Attributes:
        arrays: by name, each of the manifest's dtype; `(length, …)` where it has a length axis.
        length: in tokens.
    """

    arrays: dict[str, np.ndarray]
    length: int

    def take(self, indices: np.ndarray, inputs: Sequence[InputSpec]) -> Row:
        """The row with only the positions `indices` `(n,)` of every input that has a length axis."""
        axes = {spec.name: spec.length_axis for spec in inputs}
        arrays = {
            name: array if (axis := axes[name]) is None else np.take(array, indices, axis=axis - 1)
            for name, array in self.arrays.items()
        }
        return Row(arrays, len(indices))


def read_rows(inputs: Mapping[str, ArrayLike], manifest: Manifest) -> tuple[list[Row], bool]:
    """The rows of `inputs`, and whether they came with a batch axis.

    Arrays are `(batch, length, …)`, or `(length, …)` for a single row. A mask says where each row ends; without one
    all rows are full. The mask and segment ids may be left out.

    Raises:
        InputError: an unknown or missing input, a wrong dtype, rank or size, an empty row, or a mask that is not ones
            followed by zeros.
    """
    arrays = {name: _as_array(name, value) for name, value in inputs.items()}
    _check_names(arrays, manifest)
    given = [spec for spec in manifest.inputs if spec.name in arrays]
    batched = arrays[given[0].name].ndim == len(given[0].shape)
    sizes: dict[str, int] = {}
    for spec in given:
        array = arrays[spec.name] if batched else arrays[spec.name][np.newaxis]
        _check_shape(spec, array, sizes, batched)
        arrays[spec.name] = _cast(spec, array)
        if spec.role == "tokens" and arrays[spec.name].min(initial=0) < 0:
            raise InputError(f"input {spec.name!r} has a negative token id")
    batch, longest = sizes["batch"], sizes["length"]
    if batch == 0 or longest == 0:
        raise InputError("the input is empty", hint="give at least one row of at least one token")
    lengths = _row_lengths(arrays, manifest, batch, longest)
    for spec in manifest.inputs:
        if spec.role == "segment-ids" and spec.name not in arrays:
            arrays[spec.name] = np.zeros((batch, longest), spec.dtype)
    return [_row(arrays, manifest, index, length) for index, length in enumerate(lengths)], batched


def stack(rows: Sequence[Row], inputs: Sequence[InputSpec], *, masked: bool) -> dict[str, np.ndarray]:
    """Feeds `(batch, longest, …)` of rows padded to the longest with each input's pad value, the mask if `masked`."""
    longest = max(row.length for row in rows)
    feeds: dict[str, np.ndarray] = {}
    for spec in inputs:
        if spec.role == "mask":
            if masked:
                ones = np.arange(longest) < np.array([[row.length] for row in rows])
                feeds[spec.name] = ones.astype(spec.dtype)
        elif len(rows) == 1:
            feeds[spec.name] = rows[0].arrays[spec.name][np.newaxis]
        else:
            feeds[spec.name] = np.stack([_pad(row.arrays[spec.name], spec, longest) for row in rows])
    return feeds


def _pad(array: np.ndarray, spec: InputSpec, longest: int) -> np.ndarray:
    axis = spec.length_axis
    if axis is None or array.shape[axis - 1] == longest:
        return array
    widths = [(0, longest - size if index == axis - 1 else 0) for index, size in enumerate(array.shape)]
    return np.pad(array, widths, constant_values=spec.pad)


def _as_array(name: str, value: ArrayLike) -> np.ndarray:
    try:
        return np.asarray(value)
    except ValueError as error:
        raise InputError(
            f"input {name!r} is not an array: {error}", hint="give rows of one length, or a mask"
        ) from error


def _check_names(arrays: Mapping[str, np.ndarray], manifest: Manifest) -> None:
    known = [spec.name for spec in manifest.inputs]
    for name in arrays:
        if name not in known:
            raise InputError(f"unknown input {name!r}", hint=f"the bundle takes {', '.join(known)}")
    for spec in manifest.inputs:
        if spec.name not in arrays and spec.role not in _OPTIONAL:
            raise InputError(f"input {spec.name!r} is missing", hint=f"the bundle takes {', '.join(known)}")


def _check_shape(spec: InputSpec, array: np.ndarray, sizes: dict[str, int], batched: bool) -> None:
    """Hold `array` to the spec's rank and sizes; `sizes` collects batch and length."""
    expected = spec.shape if batched else spec.shape[1:]
    found = array.shape if batched else array.shape[1:]
    fits = array.ndim == len(spec.shape) and all(
        size == (dim if isinstance(dim, int) else sizes.setdefault(dim, size))
        for dim, size in zip(spec.shape, array.shape, strict=True)
    )
    if not fits:
        raise InputError(
            f"input {spec.name!r} has shape {found}, expected ({', '.join(map(str, expected))})"
            + "".join(f", {name} = {size}" for name, size in sizes.items() if name in expected)
        )


def _cast(spec: InputSpec, array: np.ndarray) -> np.ndarray:
    """`array` in the spec's dtype, if no value can be lost."""
    wanted = np.dtype(spec.dtype)
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
    raise InputError(f"input {spec.name!r} is {array.dtype}, which does not fit {spec.dtype}")


def _row_lengths(arrays: Mapping[str, np.ndarray], manifest: Manifest, batch: int, longest: int) -> list[int]:
    spec = manifest.mask
    if spec is None or spec.name not in arrays:
        return [longest] * batch
    lengths = (arrays[spec.name] != 0).sum(axis=1)
    if not np.array_equal(arrays[spec.name], np.arange(longest) < lengths[:, np.newaxis]):
        raise InputError(
            f"input {spec.name!r} must be ones followed by zeros in every row", hint="pad on the right, not on the left"
        )
    if not lengths.all():
        raise InputError(f"a row of {spec.name!r} has no ones: the row is empty")
    return [int(length) for length in lengths]


def _row(arrays: Mapping[str, np.ndarray], manifest: Manifest, index: int, length: int) -> Row:
    row: dict[str, np.ndarray] = {}
    for spec in manifest.inputs:
        if spec.role != "mask":
            array, axis = arrays[spec.name][index], spec.length_axis
            row[spec.name] = array if axis is None else array[(slice(None),) * (axis - 1) + (slice(length),)]
    return Row(row, length)
