"""Parts of stored weights that are ranges of the same bytes."""

from __future__ import annotations

import onnx_ir as ir


def first_rows(graph: ir.Graph, weight: ir.Value, stop: int, *, axis: int = 0) -> ir.Value:
    """An initializer of `graph` with what `weight` holds up to `stop` on `axis`, `(…, stop, …)`: a view of it.

    Where every axis before is of size 1, it is the beginning of the weight's bytes, which are stored once.
    """
    name, whole = f"{weight.name}.first{stop}", weight.const_value
    if name in graph.initializers:
        return graph.initializers[name]
    assert whole is not None and weight.shape is not None  # noqa: S101 (an initializer)
    rows, dims = (*[slice(None)] * axis, slice(stop)), list(weight.shape.numpy())
    dims[axis] = stop
    view = ir.LazyTensor(
        lambda: ir.Tensor(whole.numpy()[rows], dtype=whole.dtype), dtype=whole.dtype, shape=ir.Shape(dims), name=name
    )
    value = ir.Value(name=name, shape=ir.Shape(dims), type=ir.TensorType(whole.dtype), const_value=view)
    graph.register_initializer(value)
    return value
