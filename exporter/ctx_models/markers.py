"""Where a graph of the whole network is cut to a sub-network: identities of the domain `ctx`, in exports only.

One `torch.export` of the whole network serves every sub-network. Under it, the model marks what a sub-network changes
by operators `ctx::*` that return their input; whoever converts the program has to resolve them. Outside of an export
these functions do nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch

AxisKind = Literal["heads", "ffn"]
_Attribute = int | float | str | bool | Sequence[int] | Sequence[float] | Sequence[str] | Sequence[bool]


def exit_after(states: torch.Tensor, layer: int) -> torch.Tensor:
    """Mark the states `(batch, length, hidden)` after the first `layer` layers: `ctx::Exit`."""
    return _mark("Exit", states, {"layer": layer})


def elastic(tensor: torch.Tensor, kind: AxisKind, unit: int) -> torch.Tensor:
    """Mark a tensor of `unit` rows for each head or unit of the feed-forward network: `ctx::Elastic`."""
    return _mark("Elastic", tensor, {"axis_kind": kind, "unit": unit})


def inverse_frequencies(tensor: torch.Tensor) -> torch.Tensor:
    """Mark the rotary inverse frequencies `(head_size / 2,)`: `ctx::InvFreq`."""
    return _mark("InvFreq", tensor, {})


def rope_scale(tensor: torch.Tensor) -> torch.Tensor:
    """Mark the factor `()` of rotary cosines and sines: `ctx::RopeScale`."""
    return _mark("RopeScale", tensor, {})


def _mark(name: str, tensor: torch.Tensor, attributes: dict[str, _Attribute]) -> torch.Tensor:
    if not torch.compiler.is_exporting():
        return tensor
    return torch.onnx.ops.symbolic(
        f"ctx::{name}", (tensor,), attributes, dtype=tensor.dtype, shape=tensor.shape, version=1
    )
