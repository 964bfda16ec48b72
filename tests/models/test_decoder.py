from __future__ import annotations

import pytest
import torch

from ctx_models.decoder import LengthAdaptiveDecoder
from ctx_models.errors import ModelError
from ctx_models.subnetwork import SubNetwork
from tests.fixtures.adaptive import HIDDEN, LONGEST, randomise, tiny_config, tokens

PARTS = [SubNetwork(), SubNetwork(layers=2, heads=2, ffn=20)]


def decoder() -> LengthAdaptiveDecoder:
    return randomise(LengthAdaptiveDecoder(tiny_config(architecture="decoder")))


@pytest.mark.parametrize("part", PARTS)
def test_no_token_sees_a_later_one(part):
    model, (ids, _) = decoder(), tokens([12])
    other = ids.clone()
    other[:, 7] = other[:, 7] % 50 + 1
    before, after = model(ids, subnetwork=part), model(other, subnetwork=part)
    torch.testing.assert_close(before[:, :7], after[:, :7], rtol=0, atol=0)
    assert (before[:, 7:] - after[:, 7:]).abs().amax((0, 2)).min() > 1e-3


@pytest.mark.parametrize("part", PARTS)
def test_a_row_alone_is_the_row_in_a_padded_batch(part):
    model, (ids, mask) = decoder(), tokens([12, 5])
    together, alone = model(ids, mask, subnetwork=part), model(ids[1:, :5], subnetwork=part)
    torch.testing.assert_close(together[1:, :5], alone, rtol=1e-4, atol=1e-5)


def test_a_longer_input_is_refused():
    assert decoder()(tokens([LONGEST])[0]).shape == (1, LONGEST, HIDDEN)
    with pytest.raises(ModelError, match="an input of 65 tokens is longer than the model takes, 64"):
        decoder()(tokens([LONGEST + 1])[0])
