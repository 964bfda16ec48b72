"""Rotary positions of a decoder graph at another resolution: other frequencies over the same weights."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from ctx_export.decoding.operators import INV_FREQ
from ctx_runtime.errors import ExportError
from ctx_runtime.resource_profile import RopeScaling


@contextlib.contextmanager
def rescaled(model: Any, scaling: RopeScaling) -> Iterator[None]:  # noqa: ANN401 (transformers has no types)
    """Let the PyTorch model itself compute with the frequencies of `scaling`."""
    rotary = next(module for module in model.modules() if hasattr(module, INV_FREQ))
    inv_freq, factor = _tables(model.config, scaling)
    before = rotary.inv_freq, rotary.attention_scaling
    rotary.inv_freq, rotary.attention_scaling = torch.from_numpy(inv_freq), factor
    try:
        yield
    finally:
        rotary.inv_freq, rotary.attention_scaling = before


def rescale(graph: ir.Model, config: Any, scaling: RopeScaling) -> ir.Model:  # noqa: ANN401 (transformers has no types)
    """`graph` with the frequencies of `scaling`; it stays as it is, and the new graph shares its weights.

    linear divides every frequency (arXiv:2306.15595); ntk multiplies the base by `factor ** (d / (d - 2))`; yarn keeps
    the high frequencies and divides the low ones, and scales the cosines and sines (arXiv:2309.00071).

    Args:
        graph: a decoder graph in either form.
        config: the model's configuration, of transformers.
        scaling: the kind and factor.

    Raises:
        ExportError: the model has no rotary positions, several kinds of them, or scaled ones of its own.
    """
    model = graph.clone()
    tables = [value for value in model.graph.initializers.values() if (value.name or "").endswith(INV_FREQ)]
    parameters = getattr(config, "rope_parameters", None) or {}
    if len(tables) != 1 or parameters.get("rope_type", "default") != "default":
        found = f"{len(tables)} kinds of rotary positions" if len(tables) != 1 else parameters["rope_type"] + " scaling"
        raise ExportError(
            f"rotary positions can't be rescaled by bucket: {config.model_type} has {found} of its own",
            hint="remove `position_resolution` from the profile",
        )
    inv_freq, factor = _tables(config, scaling)
    table = tables[0]
    table.const_value = ir.Tensor(inv_freq, name=table.name)
    if factor != 1.0:
        _multiply(model.graph, table, factor)
    return model


def _tables(config: Any, scaling: RopeScaling) -> tuple[np.ndarray, float]:  # noqa: ANN401
    """Inverse frequencies `(rotary / 2,)` float32, and the factor of cosines and sines."""
    config = copy.deepcopy(config)
    parameters = dict(config.rope_parameters) | {"rope_type": scaling.kind, "factor": scaling.factor}
    parameters["original_max_position_embeddings"] = config.max_position_embeddings
    kind = scaling.kind
    if kind == "ntk":
        head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        size = int(head * parameters.get("partial_rotary_factor", 1.0))
        parameters["rope_theta"] *= scaling.factor ** (size / (size - 2))
        parameters["factor"], kind = 1.0, "linear"  # of a base that holds the factor
    config.rope_parameters = parameters | {"rope_type": kind}
    inv_freq, factor = ROPE_INIT_FUNCTIONS[kind](config, device=None)
    return inv_freq.numpy().astype(np.float32), float(factor)


def _multiply(graph: ir.Graph, table: ir.Value, factor: float) -> None:
    """Let the cosines and sines of the angles that `table` gives be `factor` times as large."""
    constant = ir.Tensor(np.float32(factor), name=f"{table.name}.factor")
    scale = ir.Value(name=constant.name, shape=ir.Shape([]), type=ir.TensorType(constant.dtype), const_value=constant)
    graph.register_initializer(scale)
    angles = [node.outputs[0] for node in table.consumers()]
    assert math.isfinite(factor) and angles  # noqa: S101 (a decoder graph multiplies positions by its frequencies)
    for node in [node for value in angles for node in value.consumers() if node.op_type in ("Cos", "Sin")]:
        result = node.outputs[0]
        scaled = ir.node("Mul", [result, scale])
        scaled.outputs[0].type, scaled.outputs[0].shape = result.type, result.shape
        ir.convenience.replace_all_uses_with(result, scaled.outputs[0])
        scaled.replace_input_with(0, result)
        graph.insert_after(node, scaled)
