"""Parts of a network, and which part runs at which length."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from ctx_models.config import AdaptiveConfig
from ctx_models.errors import ModelError

RopeKind = Literal["linear", "ntk", "yarn"]
_NUMBERS = {"l": "layers", "h": "heads", "f": "ffn"}
"""The fields of a sub-network by their letter in its text."""


@dataclass(frozen=True)
class RopeScaling:
    """The resolution of rotary positions.

    Attributes:
        kind: linear interpolation, NTK-aware, or YaRN.
        factor: 1 is the finest, that of training; positions `factor` times as far apart look as near.
    """

    kind: RopeKind
    factor: float

    def __post_init__(self) -> None:
        if self.kind not in get_args(RopeKind):
            raise ModelError(f"a position resolution is one of {', '.join(get_args(RopeKind))}, not {self.kind!r}")
        if not 1 <= self.factor <= 1024:
            raise ModelError(f"the factor of a position resolution is 1..1024, not {self.factor:g}")


@dataclass(frozen=True)
class SubNetwork:
    """The part of the network that runs; None means all of it.

    Attributes:
        layers: the first layers; in an encoder-decoder, those of each stack.
        heads: the first heads of every attention.
        ffn: the first inner units of every feed-forward network.
        position_resolution: the scaling of rotary positions; None is that of training.
    """

    layers: int | None = None
    heads: int | None = None
    ffn: int | None = None
    position_resolution: RopeScaling | None = None

    def resolve(self, config: AdaptiveConfig) -> SubNetwork:
        """This sub-network with a number for each None.

        Raises:
            ModelError: the model does not have that many layers, heads or units, or no rotary positions.
        """
        if self.position_resolution and config.positions != "rotary":
            raise ModelError(
                f"no sub-network {self}: the positions of this model are learned", hint="leave the resolution out"
            )
        layers = self._within("layers", max(config.num_layers, config.num_decoder_layers))
        heads, ffn = self._within("heads", config.num_heads), self._within("ffn", config.ffn_size)
        return SubNetwork(layers, heads, ffn, self.position_resolution)

    def _within(self, name: str, most: int) -> int:
        value = getattr(self, name)
        if value is None:
            return most
        if not 1 <= value <= most:
            raise ModelError(f"no sub-network {self}: {name} is 1..{most} in this model, not {value}")
        return int(value)

    def flops(self, config: AdaptiveConfig, length: int) -> float:
        """Floating-point operations per token of an encoder's or a decoder's layers, at inputs of `length` tokens.

        A multiplication and an addition are two. Embeddings, heads of tasks and the fusion of segments are left out.
        """
        part = self.resolve(config)
        layers, heads, ffn = (float(number or 0) for number in (part.layers, part.heads, part.ffn))
        attended = min(length, config.window)
        projections = 4 * heads * config.head_size * config.hidden_size + 2 * ffn * config.hidden_size
        return layers * (2 * projections + 4 * attended * heads * config.head_size)

    def __str__(self) -> str:
        """`l3-h6-f768-yarn4`, without what is None; `full` for all of it."""
        numbers = ((key, getattr(self, name)) for key, name in _NUMBERS.items())
        parts = [f"{key}{value}" for key, value in numbers if value is not None]
        if self.position_resolution:
            parts.append(f"{self.position_resolution.kind}{self.position_resolution.factor:g}")
        return "-".join(parts) or "full"

    @classmethod
    def parse(cls, text: str) -> SubNetwork:
        """Read what `str` gives.

        Raises:
            ModelError: it is no such text.
        """
        settings: dict[str, Any] = {}
        for part in () if text == "full" else text.split("-"):
            match = re.fullmatch(r"([a-z]+)(\d+(?:\.\d+)?)", part)
            key, number = match.groups() if match else ("", "")
            if key in get_args(RopeKind) and "position_resolution" not in settings:
                settings["position_resolution"] = RopeScaling(cast(RopeKind, key), float(number))
            elif key in _NUMBERS and _NUMBERS[key] not in settings and number.isdigit():
                settings[_NUMBERS[key]] = int(number)
            else:
                raise ModelError(f"{text!r} is no sub-network", hint="write full, or for example l3-h6-f768-yarn4")
        return cls(**settings)

    def to_json(self) -> dict[str, Any]:
        """As JSON values, without what is None."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> SubNetwork:
        """What `to_json` gave.

        Raises:
            ModelError: an unknown or impossible value.
        """
        settings = dict(values)
        try:
            if settings.get("position_resolution") is not None:
                settings["position_resolution"] = RopeScaling(**settings["position_resolution"])
            return cls(**settings)
        except TypeError as error:
            raise ModelError(f"a sub-network is not sound: {error}") from error


@dataclass(frozen=True)
class LengthPolicy:
    """Which sub-network runs at which length: `(max_length, sub-network)`, ascending; the first begins at 1."""

    steps: tuple[tuple[int, SubNetwork], ...]

    def __post_init__(self) -> None:
        lengths = [length for length, _ in self.steps]
        if not lengths or lengths[0] < 1:
            raise ModelError("a length policy has at least one step, and lengths of at least 1")
        for shorter, longer in itertools.pairwise(lengths):
            if longer <= shorter:
                raise ModelError(f"the steps of a length policy ascend: {longer} follows {shorter}")

    def __call__(self, length: int) -> SubNetwork:
        """The sub-network for an input of `length` tokens.

        Raises:
            ModelError: the policy has no step for it.
        """
        for longest, part in self.steps:
            if 1 <= length <= longest:
                return part
        raise ModelError(f"the length policy covers 1..{self.steps[-1][0]} tokens, not {length}")

    def to_json(self) -> list[dict[str, Any]]:
        """As JSON values: a list of ranges `min_length..max_length`, each with its sub-network."""
        starts = [1, *(length + 1 for length, _ in self.steps)]
        return [
            {"min_length": start, "max_length": length, "subnetwork": part.to_json()}
            for start, (length, part) in zip(starts, self.steps, strict=False)
        ]

    @classmethod
    def from_json(cls, values: Sequence[Mapping[str, Any]]) -> LengthPolicy:
        """What `to_json` gave; also written by hand, where `min_length` may be left out.

        Raises:
            ModelError: ranges that leave a hole or overlap, or an unknown or impossible value.
        """
        steps: list[tuple[int, SubNetwork]] = []
        for entry in values:
            try:
                length, part = int(entry["max_length"]), SubNetwork.from_json(entry.get("subnetwork") or {})
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise ModelError(f"a length policy's step is not sound: {entry!r}") from error
            start, expected = entry.get("min_length"), steps[-1][0] + 1 if steps else 1
            if start is not None and start != expected:
                what = "leaves a hole at" if start > expected else "overlaps at"
                raise ModelError(
                    f"the length policy {what} {min(start, expected)} tokens", hint="ranges follow another"
                )
            steps.append((length, part))
        return cls(tuple(steps))
