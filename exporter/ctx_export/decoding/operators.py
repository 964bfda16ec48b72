"""Layers of transformers as single standard operators, RMSNormalization and RotaryEmbedding, while a model is traced.

Written out they are half of a decoder's nodes. A layer is replaced only where it is known to compute the same.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch

from ctx_export.decoding.step import ATTENTION
from ctx_runtime.errors import ExportError

INV_FREQ, SCALE = "inv_freq", "rotary_scale"
"""How the names of the initializers with rotary frequencies `(rotary / 2,)` and the factor of the tables end."""
_OPSET = 23
_SCALED_BY_LENGTH = ("dynamic", "longrope")
"""Rotary scalings that depend on the length of the whole input: cached keys would need to be rotated again."""

Tables = tuple[torch.Tensor, torch.Tensor]
"""Cosines and sines, `(batch, length, rotary / 2)` each."""


@contextlib.contextmanager
def traceable(model: Any) -> Iterator[None]:  # noqa: ANN401 (transformers has no types)
    """Let `model` emit standard operators; inside, it can be traced and not run.

    Raises:
        ExportError: its rotary frequencies depend on the length.
    """
    attention = model.config._attn_implementation
    with contextlib.ExitStack() as stack:
        stack.callback(setattr, model.config, "_attn_implementation", attention)
        model.config._attn_implementation = ATTENTION
        for module in model.modules():
            if type(module).__name__.endswith("RMSNorm") and _normalises(module):
                stack.enter_context(_forward(module, _rms_normalization(module)))
        library: Any = sys.modules[type(model).__module__]
        if _rotates_halves(getattr(library, "apply_rotary_pos_emb", None)):
            for module in [each for each in model.modules() if type(each).__name__.endswith("RotaryEmbedding")]:
                stack.enter_context(_rotary_tables(module))
            stack.callback(setattr, library, "apply_rotary_pos_emb", library.apply_rotary_pos_emb)
            library.apply_rotary_pos_emb = _rotate
        yield


@contextlib.contextmanager
def _forward(module: torch.nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    module.forward = forward
    try:
        yield
    finally:
        del module.forward


def _scale_and_epsilon(norm: Any) -> tuple[torch.Tensor, float]:  # noqa: ANN401
    """Gemma keeps its scale as what is added to 1."""
    epsilon = float(norm.variance_epsilon if hasattr(norm, "variance_epsilon") else norm.eps)
    return (1.0 + norm.weight if "Gemma" in type(norm).__name__ else norm.weight), epsilon


def _normalises(norm: torch.nn.Module) -> bool:
    """Whether `norm` gives what RMSNormalization gives with its scale and epsilon."""
    if not hasattr(norm, "weight"):
        return False
    scale, epsilon = _scale_and_epsilon(norm)
    with torch.no_grad():
        hidden = torch.linspace(-2, 3, 2 * scale.numel(), dtype=scale.dtype).view(2, -1)
        expected = torch.nn.functional.rms_norm(hidden, scale.shape, scale, epsilon)
        return torch.allclose(norm(hidden), expected, atol=1e-3, rtol=1e-3)


def _rms_normalization(norm: torch.nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    def forward(hidden: torch.Tensor) -> torch.Tensor:
        scale, epsilon = _scale_and_epsilon(norm)
        return torch.onnx.ops.symbolic(
            "RMSNormalization",
            (hidden, scale),
            {"axis": -1, "epsilon": epsilon},
            dtype=hidden.dtype,
            shape=hidden.shape,
            version=_OPSET,
        )

    return forward


def _rotates_halves(function: Callable[..., Any] | None) -> bool:
    """Whether `apply_rotary_pos_emb` of a model rotates pairs half a head apart, as RotaryEmbedding does."""
    if function is None:
        return False
    states = torch.linspace(-1, 1, 24).view(1, 1, 3, 8)
    angles = torch.arange(3.0)[None, :, None] * torch.linspace(1, 0.1, 4)
    cos, sin = angles.cos(), angles.sin()
    left, right = states.chunk(2, -1)
    expected = torch.cat([left * cos - right * sin, right * cos + left * sin], -1)
    try:
        rotated = function(states, states, torch.cat([cos, cos], -1), torch.cat([sin, sin], -1))
    except RuntimeError:  # it takes other tables
        return False
    return all(torch.allclose(part, expected, atol=1e-6) for part in rotated)


@contextlib.contextmanager
def _rotary_tables(rotary: Any) -> Iterator[None]:  # noqa: ANN401
    """Let `rotary` give the half tables that RotaryEmbedding takes; its factor becomes a buffer beside `inv_freq`."""
    kinds = rotary.rope_type if isinstance(rotary.rope_type, dict) else {None: rotary.rope_type}
    prefixes = {kind: "" if kind is None else f"{kind}_" for kind in kinds}
    for scaling in kinds.values():
        if scaling in _SCALED_BY_LENGTH:
            raise ExportError(
                f"rotary positions with {scaling!r} scaling change with the length of the whole input",
                hint="give the model a fixed scaling (linear, yarn, llama3), or a resource profile with one by bucket",
            )

    def forward(hidden: torch.Tensor, position_ids: torch.Tensor, layer_type: str | None = None) -> Tables:
        prefix = prefixes[layer_type]
        inv_freq, scale = (getattr(rotary, prefix + name) for name in (INV_FREQ, SCALE))
        angles = position_ids[..., None].to(torch.float32) * inv_freq
        return (angles.cos() * scale).to(hidden.dtype), (angles.sin() * scale).to(hidden.dtype)

    with _forward(rotary, forward):
        for prefix in prefixes.values():
            factor = float(getattr(rotary, f"{prefix}attention_scaling"))
            rotary.register_buffer(prefix + SCALE, torch.tensor(factor), persistent=False)
        try:
            yield
        finally:
            for prefix in prefixes.values():
                delattr(rotary, prefix + SCALE)


def _rotate(query: torch.Tensor, key: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> Tables:
    """The standard operator in the place of a model's `apply_rotary_pos_emb`."""
    rotary = 2 * cos.shape[-1]
    rotated = [
        torch.onnx.ops.symbolic(
            "RotaryEmbedding",
            (states, cos, sin),
            {"rotary_embedding_dim": 0 if states.shape[-1] == rotary else rotary},
            dtype=states.dtype,
            shape=states.shape,
            version=_OPSET,
        )
        for states in (query, key)
    ]
    return rotated[0], rotated[1]
