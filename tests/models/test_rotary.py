from __future__ import annotations

import pytest
import torch
import transformers
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from ctx_models.rotary import Rotary, rotate, scaled_inv_freq
from ctx_models.subnetwork import RopeScaling
from tests.fixtures.adaptive import SEGMENTS, tiny_config

CONFIG = tiny_config(head_size=64, max_length=2048, rope_theta=10000.0)


def theirs(kind: str, factor: float, window: int) -> tuple[torch.Tensor, float]:
    """What transformers computes for a Llama; its dynamic NTK at `factor` times the window is the static one."""
    rope = {"rope_type": "dynamic", "factor": 1.0} if kind == "ntk" else {"rope_type": kind, "factor": factor}
    config = transformers.LlamaConfig(
        hidden_size=256,
        num_attention_heads=4,
        max_position_embeddings=window,
        rope_parameters={"rope_theta": 10000.0, "original_max_position_embeddings": window, **rope},
    )
    return ROPE_INIT_FUNCTIONS[rope["rope_type"]](config, "cpu", seq_len=int(factor * window))


@pytest.mark.parametrize("factor", [1, 2, 8])
@pytest.mark.parametrize("kind", ["linear", "ntk", "yarn"])
def test_a_resolution_has_the_numbers_of_transformers(kind, factor):
    inv_freq, scale = scaled_inv_freq(CONFIG, RopeScaling(kind, factor))
    expected, expected_scale = theirs(kind, factor, 2048)
    torch.testing.assert_close(inv_freq, expected)
    assert scale == pytest.approx(expected_scale)


def test_the_window_of_yarn_is_a_segment():
    config = tiny_config(head_size=64, max_length=2048, segment=SEGMENTS)
    inv_freq, _ = scaled_inv_freq(config, RopeScaling("yarn", 4))
    torch.testing.assert_close(inv_freq, theirs("yarn", 4, SEGMENTS.length)[0])


def test_scores_depend_on_the_distance_only():
    inv_freq, _ = scaled_inv_freq(CONFIG)
    query, key = torch.randn(1, 1, 1, 64), torch.randn(1, 1, 1, 64)

    def score(at: int, other: int) -> torch.Tensor:
        return (rotate(torch.tensor([at]), inv_freq)(query) * rotate(torch.tensor([other]), inv_freq)(key)).sum()

    torch.testing.assert_close(score(3, 10), score(103, 110), rtol=1e-4, atol=1e-4)
    assert (score(3, 10) - score(3, 11)).abs() > 1e-3


def test_a_coarser_linear_resolution_brings_positions_together():
    rotary = Rotary(CONFIG)
    coarse, fine = rotary(9, RopeScaling("linear", 4)), rotary(3, None)
    torch.testing.assert_close(coarse.cos[::4], fine.cos)
    torch.testing.assert_close(coarse.sin[::4], fine.sin)
