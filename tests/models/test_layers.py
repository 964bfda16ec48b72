from __future__ import annotations

import peft
import pytest
import torch
from torch import nn

from ctx_models.layers import Attention, FeedForward, TransposedLinear, _first, effective_weight
from tests.fixtures.adaptive import HEAD_SIZE, HIDDEN, randomise, tiny_config


def test_a_transposed_linear_layer_is_a_linear_layer():
    layer = randomise(TransposedLinear(5, 3))
    states = torch.randn(2, 4, 5)
    torch.testing.assert_close(layer(states), nn.functional.linear(states, layer.weight.T, layer.bias))


@pytest.mark.parametrize("module", [nn.Linear(HIDDEN, 32), TransposedLinear(32, HIDDEN)])
def test_what_is_taken_of_a_weight_is_the_beginning_of_its_bytes(module):
    taken = _first(module.weight, 3, "heads", HEAD_SIZE)
    assert taken.shape == (3 * HEAD_SIZE, HIDDEN)
    assert taken.is_contiguous()
    assert taken.data_ptr() == module.weight.data_ptr()


def test_some_heads_are_a_smaller_attention():
    whole = randomise(Attention(tiny_config()))
    small, rows = Attention(tiny_config(num_heads=3)), 3 * HEAD_SIZE
    state = {
        name: tensor if name == "output.bias" else tensor[:rows].clone() for name, tensor in whole.state_dict().items()
    }
    small.eval().load_state_dict(state)
    states, source = torch.randn(2, 5, HIDDEN), torch.randn(2, 7, HIDDEN)
    torch.testing.assert_close(whole(states, source, heads=3), small(states, source, heads=None))


def test_some_units_are_a_smaller_feed_forward_network():
    whole, small = randomise(FeedForward(tiny_config())), FeedForward(tiny_config(ffn_size=13))
    state = {
        name: tensor if name == "down.bias" else tensor[:13].clone() for name, tensor in whole.state_dict().items()
    }
    small.load_state_dict(state)
    states = torch.randn(2, 5, HIDDEN)
    torch.testing.assert_close(whole(states, 13), small(states, None))


def test_attention_gives_every_head_its_weighted_mean():
    attention = randomise(Attention(tiny_config(num_heads=1)))
    states = torch.randn(1, 4, HIDDEN)
    query, key, value = attention.query(states), attention.key(states), attention.value(states)
    weights = (query @ key.transpose(1, 2) / HEAD_SIZE**0.5).softmax(-1)
    torch.testing.assert_close(attention(states, states, heads=None), attention.output(weights @ value))


@pytest.mark.parametrize("base", [nn.Linear(6, 4), TransposedLinear(4, 6)])
def test_the_weight_of_an_adapted_layer_holds_its_adapter(base):
    holder = nn.ModuleDict({"layer": base})
    peft.LoraModel(holder, peft.LoraConfig(r=2, lora_alpha=4, target_modules=["layer"]), "default")
    module = holder["layer"]
    nn.init.normal_(module.lora_B["default"].weight)
    weight = base.weight.detach().clone()
    delta = 2 * module.lora_B["default"].weight @ module.lora_A["default"].weight
    torch.testing.assert_close(effective_weight(module), weight + delta)
    module.enable_adapters(False)
    torch.testing.assert_close(effective_weight(module), weight)
    module.enable_adapters(True)
    module.merge()
    torch.testing.assert_close(effective_weight(module), weight + delta)
