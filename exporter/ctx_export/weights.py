"""The one file with the weights of all graphs of a bundle: nothing is stored twice."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import onnx_ir as ir

ALIGNMENT = 64
"""Every stored tensor starts at a multiple of this many bytes."""
EMBEDDED_BELOW = 1024
"""Initializers of fewer bytes stay in the graph's own file."""
_HEAD = 64
"""Bytes that two tensors must share before more of them is compared."""
_CHUNK = 1 << 20


@dataclass(frozen=True)
class ByteRange:
    """`length` bytes of the weight file, from `offset` on."""

    offset: int
    length: int


class WeightStore:
    """Writes graphs beside one weight file, `with WeightStore(folder / "weights.bin") as store`.

    A tensor with the bytes of a stored one, whatever its dtype, or with the bytes that a stored one begins with,
    becomes a range of it: the position table of a short bucket is the beginning of a long one's, the weights of a
    sub-network those of the whole. So save the graphs that share any together. The same graphs in the same order give
    the same bytes. One tensor is in memory at a time.
    """

    def __init__(self, path: Path) -> None:
        """Start an empty weight file at `path`; the graphs are saved in the same folder."""
        self._path = path
        self._file = path.open("w+b")
        self._by_content: dict[bytes, ByteRange] = {}
        self._by_head: dict[bytes, list[ByteRange]] = {}

    def __enter__(self) -> WeightStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Finish the weight file."""
        self._file.close()

    def save_graph(self, model: ir.Model, path: Path) -> None:
        """Write one graph; see `save_graphs`."""
        self.save_graphs({path: model})

    def save_graphs(self, graphs: Mapping[Path, ir.Model]) -> None:
        """Write each graph to its path, and the weights of all into the weight file, the largest first.

        The models stay as they are.

        Raises:
            ValueError: a path is not in the folder of the weight file, where ONNX Runtime looks for it.
        """
        for path in graphs:
            if path.parent != self._path.parent:
                raise ValueError(f"{path} is not beside {self._path}")
        models = {path: model.clone() for path, model in graphs.items()}
        inner = [graph for model in models.values() for graph in model.graphs()]
        values = [value for graph in inner for value in graph.initializers.values()]
        for value in sorted(values, key=_bytes, reverse=True):
            if value.const_value is not None:
                value.const_value = self._placed(value.const_value, value.name or "")
        self._file.flush()
        for path, model in models.items():
            path.write_bytes(ir.to_proto(model).SerializeToString(deterministic=True))

    def _placed(self, tensor: ir.TensorProtocol, name: str) -> ir.TensorProtocol:
        """The tensor as the graph file holds it: its numbers, or where they are in the weight file."""
        if tensor.nbytes < EMBEDDED_BELOW:
            return ir.Tensor(tensor.numpy(), dtype=tensor.dtype, shape=ir.Shape(tensor.shape.numpy()), name=name)
        place = self._store(tensor.tobytes())
        return ir.ExternalTensor(
            self._path.name,
            place.offset,
            place.length,
            tensor.dtype,
            shape=ir.Shape(tensor.shape.numpy()),
            name=name,
            base_dir=self._path.parent,
        )

    def _store(self, data: bytes) -> ByteRange:
        content, head = hashlib.sha256(data).digest(), data[:_HEAD]
        if content not in self._by_content:
            self._by_content[content] = self._find_prefix(head, data) or self._append(head, data)
        return self._by_content[content]

    def _find_prefix(self, head: bytes, data: bytes) -> ByteRange | None:
        """Where a stored tensor begins with `data`."""
        for stored in self._by_head.get(head, ()):
            if len(data) <= stored.length and self._holds(stored.offset, data):
                return ByteRange(stored.offset, len(data))
        return None

    def _holds(self, offset: int, data: bytes) -> bool:
        self._file.seek(offset)
        view = memoryview(data)
        return all(self._file.read(len(part)) == part for part in _chunks(view))

    def _append(self, head: bytes, data: bytes) -> ByteRange:
        end = self._file.seek(0, 2)
        self._file.write(bytes(-end % ALIGNMENT))
        stored = ByteRange(end + -end % ALIGNMENT, len(data))
        self._file.write(data)
        self._by_head.setdefault(head, []).append(stored)
        return stored


def _bytes(value: ir.Value) -> int:
    return value.const_value.nbytes if value.const_value is not None else 0


def _chunks(view: memoryview) -> list[memoryview]:
    return [view[start : start + _CHUNK] for start in range(0, len(view), _CHUNK)]
