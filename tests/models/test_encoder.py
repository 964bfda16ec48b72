from __future__ import annotations

import itertools

import pytest
import torch

from ctx_models.encoder import LengthAdaptiveEncoder
from ctx_models.errors import ModelError
from ctx_models.subnetwork import RopeScaling, SubNetwork
from tests.fixtures.adaptive import HEADS, HIDDEN, LAYERS, LONGEST, SEGMENTS, randomise, tiny_config, tokens

KINDS = {
    "own": {},
    "bert": {"positions": "learned", "norm": "post", "type_vocab_size": 2},
    "segments": {"segment": SEGMENTS},
}


def encoder(kind: str) -> LengthAdaptiveEncoder:
    return randomise(LengthAdaptiveEncoder(tiny_config(**KINDS[kind])))


@pytest.mark.parametrize("kind", KINDS)
def test_every_sub_network_gives_states_of_its_own(kind):
    model, (ids, mask) = encoder(kind), tokens([12, 7])
    parts = [SubNetwork(*numbers) for numbers in itertools.product((1, 2, 3), (1, 4), (1, 40))]
    found = [model(ids, mask, subnetwork=part) for part in parts]
    assert {states.shape for states in found} == {(2, 12, HIDDEN)}
    assert all(states.isfinite().all() for states in found)
    assert all((a - b).abs().max() > 1e-3 for a, b in itertools.combinations(found, 2))
    torch.testing.assert_close(found[-1], model(ids, mask), rtol=0, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_sub_network_of_all_heads_and_units_is_a_model_of_fewer_layers(kind):
    model = encoder(kind)
    small = LengthAdaptiveEncoder(tiny_config(num_layers=2, **KINDS[kind])).eval()
    small.load_state_dict({name: model.state_dict()[name] for name in small.state_dict()})
    ids, mask = tokens([12, 7])
    torch.testing.assert_close(model(ids, mask, subnetwork=SubNetwork(layers=2)), small(ids, mask), rtol=0, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_alone_is_the_row_in_a_padded_batch(kind):
    lengths = [12, 1, 9]
    model, (ids, mask) = encoder(kind), tokens(lengths, padded=14)
    together = model(ids, mask)
    for row, length in enumerate(lengths):
        alone = model(ids[row : row + 1, :length])
        torch.testing.assert_close(alone, together[row : row + 1, :length], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["own", "segments"])
def test_a_resolution_changes_the_states_and_factor_one_does_not(kind):
    model, (ids, _) = encoder(kind), tokens([12])
    whole = model(ids)
    for scaling in ("linear", "ntk", "yarn"):
        same = model(ids, subnetwork=SubNetwork(position_resolution=RopeScaling(scaling, 1)))
        torch.testing.assert_close(same, whole, rtol=1e-4, atol=1e-5)
        coarse = model(ids, subnetwork=SubNetwork(position_resolution=RopeScaling(scaling, 4)))
        assert (coarse - whole).abs().max() > 1e-3


def test_token_types_matter_and_are_zero_where_they_are_not_given():
    model, (ids, _) = encoder("bert"), tokens([12])
    torch.testing.assert_close(model(ids), model(ids, token_type_ids=torch.zeros_like(ids)))
    assert (model(ids) - model(ids, token_type_ids=torch.ones_like(ids))).abs().max() > 1e-3


def test_types_are_refused_by_a_model_without_them():
    ids, _ = tokens([12])
    with pytest.raises(ModelError, match="this model has no token types"):
        encoder("own")(ids, token_type_ids=torch.zeros_like(ids))


def test_a_model_without_segments_takes_no_longer_input():
    model = encoder("bert")
    assert model(tokens([LONGEST])[0]).shape == (1, LONGEST, HIDDEN)
    with pytest.raises(ModelError, match="an input of 65 tokens is longer than the model takes, 64"):
        model(tokens([LONGEST + 1])[0])


def test_a_sub_network_that_is_not_there_is_refused():
    with pytest.raises(ModelError, match=rf"heads is 1\.\.{HEADS}"):
        encoder("own")(tokens([5])[0], subnetwork=SubNetwork(heads=HEADS + 1))


def test_new_states_neither_vanish_nor_grow_with_the_depth():
    torch.manual_seed(0)
    ids, _ = tokens([32])
    for layers in (LAYERS, 24):
        stack = LengthAdaptiveEncoder(tiny_config(num_layers=layers)).eval()
        states = stack.embeddings(ids)
        for layer in stack.stack.layers:
            states = layer(states, SubNetwork(), rotation=stack.stack.rotary(32, None))
        assert 0.1 < states.std() < 3
