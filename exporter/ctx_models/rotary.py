"""Rotary positions and their resolutions.

Su et al., RoFormer: Enhanced Transformer with Rotary Position Embedding, 2021 (arXiv:2104.09864).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from ctx_models import markers
from ctx_models.config import AdaptiveConfig
from ctx_models.subnetwork import RopeScaling

_BETA_FAST, _BETA_SLOW = 32, 1
"""YaRN: frequencies that turn more often than 32 times in a window stay; those that turn less than once are scaled."""


@dataclass(frozen=True)
class Rotation:
    """Cosines and sines `(length, head_size / 2)` of the angle of each position and frequency."""

    cos: torch.Tensor
    sin: torch.Tensor

    def __call__(self, heads: torch.Tensor) -> torch.Tensor:
        """Rotate `(batch, heads, length, head_size)`: the first half of the widths against the second."""
        first, second = heads.chunk(2, dim=-1)
        cos, sin = self.cos.to(heads.dtype), self.sin.to(heads.dtype)
        return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def rotate(positions: torch.Tensor, inv_freq: torch.Tensor, scale: torch.Tensor | float = 1.0) -> Rotation:
    """The rotation of each of `positions` `(length,)`; `scale` multiplies cosines and sines."""
    angles = positions.to(torch.float32)[:, None] * inv_freq
    return Rotation(angles.cos() * scale, angles.sin() * scale)


def scaled_inv_freq(config: AdaptiveConfig, scaling: RopeScaling | None = None) -> tuple[torch.Tensor, float]:
    """Inverse frequencies `(head_size / 2,)` in float32, and the factor of cosines and sines.

    - linear: Chen et al., Extending Context Window of Large Language Models via Positional Interpolation, 2023
      (arXiv:2306.15595). Every frequency is divided by the factor.
    - ntk: the base is multiplied by `factor ** (d / (d - 2))`, so that the highest frequency stays and the lowest is
      divided by the factor; "NTK-aware" in section 3.1 of the YaRN paper.
    - yarn: Peng et al., YaRN: Efficient Context Window Extension of Large Language Models, 2023 (arXiv:2309.00071).
      High frequencies stay, low ones are divided, those between are blended; attention is sharpened by the factor
      `0.1 ln(factor) + 1` on cosines and sines. The window of training is `config.window`.
    """
    size, base, factor = config.head_size, config.rope_theta, scaling.factor if scaling else 1.0
    if scaling and scaling.kind == "ntk" and size > 2:
        base *= factor ** (size / (size - 2))
    inv_freq = 1.0 / base ** (torch.arange(0, size, 2, dtype=torch.float32) / size)
    if scaling is None or scaling.kind == "ntk":
        return inv_freq, 1.0
    if scaling.kind == "linear":
        return inv_freq / factor, 1.0
    kept = _kept_by_yarn(config)
    return inv_freq * kept + inv_freq / factor * (1 - kept), 0.1 * math.log(factor) + 1.0


def _kept_by_yarn(config: AdaptiveConfig) -> torch.Tensor:
    """How much of each frequency YaRN keeps, `(head_size / 2,)`: 1 for the highest, 0 for the lowest."""

    def dimension(turns: int) -> float:
        """The pair of widths, as a real number, that turns so often in the window of training."""
        return config.head_size * math.log(config.window / (turns * 2 * math.pi)) / (2 * math.log(config.rope_theta))

    low = max(math.floor(dimension(_BETA_FAST)), 0)
    high = min(math.ceil(dimension(_BETA_SLOW)), config.head_size - 1)
    width = high - low if high != low else 0.001
    pairs = torch.arange(config.head_size // 2, dtype=torch.float32)
    return 1 - ((pairs - low) / width).clamp(0, 1)


class Rotary(nn.Module):
    """The rotations of positions `0..length-1`, at any resolution."""

    def __init__(self, config: AdaptiveConfig) -> None:
        super().__init__()
        self.config = config
        inv_freq, _ = scaled_inv_freq(config)
        self.inv_freq: torch.Tensor
        self.scale: torch.Tensor
        self.register_buffer("inv_freq", inv_freq, persistent=False)
        self.register_buffer("scale", torch.ones(()), persistent=False)

    def forward(self, length: int, scaling: RopeScaling | None) -> Rotation:
        """The rotation of each position, `(length, head_size / 2)`."""
        positions = torch.arange(length, device=self.inv_freq.device)
        if scaling is None:
            return rotate(positions, markers.inverse_frequencies(self.inv_freq), markers.rope_scale(self.scale))
        inv_freq, scale = scaled_inv_freq(self.config, scaling)
        return rotate(positions, inv_freq.to(self.inv_freq.device), scale)
