"""The precision of a graph: which numbers it computes with, and how it stores its weights."""

from __future__ import annotations

import onnx_ir as ir

from ctx_export.narrowing import narrow
from ctx_export.quantising import quantise_weights
from ctx_runtime.manifest import Tolerance
from ctx_runtime.resource_profile import Precision

TOLERANCES: dict[Precision, Tolerance] = {
    "fp32": Tolerance(max_abs=1e-4, min_cosine=0.99999),
    "fp16": Tolerance(max_abs=2e-2, min_cosine=0.9999),
    "bf16": Tolerance(max_abs=2e-1, min_cosine=0.999),
    "int8": Tolerance(max_abs=5e-1, min_cosine=0.99),
    "int4": Tolerance(max_abs=3.0, min_cosine=0.85),
}
"""What counts as the same answer as PyTorch's float32, by precision.

Measured on the hidden states of all-MiniLM-L6-v2 (up to 6.0 in size) with random tokens, max abs and cosine:
fp16 0.004 and 0.999999; bf16 0.04 and 0.9999 (in PyTorch); int8 0.15 and 0.9988; int4 0.82 and 0.94, its pooled rows
0.90 to 0.92. Rounding weights to 4 bits without calibration is coarse: look at the parity table before shipping it.
"""


def convert(model: ir.Model, precision: Precision) -> ir.Model:
    """`model`, a float32 graph, at another precision; its inputs and outputs keep their names and dtypes.

    `fp16` and `bf16` compute and store in 16 bits, but for reductions and angles of positions, which stay float32.
    `int8` and `int4` store the weights of matrix products, transposed where the product takes them so, in 8 bits by
    column or 4 bits by block, symmetric, behind a DequantizeLinear; activations stay float32, so that an answer depends
    on nothing but its own row.

    `model` stays as it is; the new one shares what did not change.

    Raises:
        ExportError: the graph has control flow, whose branches would have to agree on dtypes.
    """
    if precision == "fp16":
        return narrow(model, ir.DataType.FLOAT16)
    if precision == "bf16":
        return narrow(model, ir.DataType.BFLOAT16)
    if precision in ("int8", "int4"):
        return quantise_weights(model, bits=8 if precision == "int8" else 4)
    return model
