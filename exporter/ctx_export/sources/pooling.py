"""Sentence embeddings as sentence-transformers computes them from an encoder's last hidden state."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from ctx_export.sources.folder import inside, read_json
from ctx_runtime.errors import SourceError

PoolingMode = Literal["mean", "cls", "max"]

_LEGACY_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


class Pooling(torch.nn.Module):
    """One row for a whole input, over the tokens that the mask keeps.

    Args:
        mode: `mean` of the rows, the row of the first token (`cls`), or their elementwise `max`.
        normalize: bring the row to unit length.
    """

    def __init__(self, mode: PoolingMode, *, normalize: bool) -> None:
        super().__init__()
        self.mode = mode
        self.normalize = normalize

    def forward(self, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """States `(batch, length, hidden)` and mask `(batch, length)`, padded on the right, to `(batch, hidden)`."""
        kept = mask.unsqueeze(-1)
        if self.mode == "mean":
            weights = kept.to(states.dtype)
            rows = (states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1e-9)
        elif self.mode == "max":
            rows = states.masked_fill(kept == 0, float("-inf")).max(dim=1).values
        else:
            rows = states[:, 0]
        return torch.nn.functional.normalize(rows, dim=-1) if self.normalize else rows


@dataclass(frozen=True)
class SentenceEncoder:
    """What `modules.json` says: where the encoder is, and what follows it."""

    encoder: Path
    pooling: Pooling
    files: tuple[Path, ...]


def read_sentence_encoder(folder: Path) -> SentenceEncoder | None:
    """Read the modules of a sentence-transformers folder; None for any other folder.

    Raises:
        SourceError: its modules are not an encoder, a pooling of a supported mode and, optionally, a normalization.
    """
    index = folder / "modules.json"
    if not index.is_file():
        return None
    modules: Any = read_json(index, list)
    try:
        kinds = [str(module["type"]).rsplit(".", 1)[-1] for module in modules]
        paths = [inside(folder, str(module["path"])) for module in modules]
    except (TypeError, KeyError) as error:
        raise SourceError(f"{index} is not a list of modules with a type and a path") from error
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise SourceError(
            f"{folder.name} is made of {', '.join(kinds) or 'nothing'}; supported are Transformer, Pooling, Normalize",
            hint="remove modules.json to export the states of its tokens only",
        )
    config = paths[1] / "config.json"
    pooling = Pooling(_mode(config), normalize="Normalize" in kinds)
    return SentenceEncoder(encoder=paths[0], pooling=pooling, files=(index, config))


def _mode(path: Path) -> PoolingMode:
    """The pooling mode in a Pooling module's configuration, in its present or its older form."""
    config = read_json(path, dict)
    found = config.get("pooling_mode", [mode for key, mode in _LEGACY_MODES.items() if config.get(key)] or "mean")
    modes = found if isinstance(found, list) else [found]
    for mode in get_args(PoolingMode):
        if modes == [mode]:
            supported: PoolingMode = mode
            return supported
    raise SourceError(
        f"pooling mode {' + '.join(map(str, modes))} in {path.parent.name} is not supported",
        hint=f"supported are {', '.join(get_args(PoolingMode))}; without modules.json, tokens' states are exported",
    )
