from __future__ import annotations

import torch

from ctx_models.layers import Layer
from ctx_models.ranking import rank_by_importance
from ctx_models.subnetwork import SubNetwork
from tests.fixtures.adaptive import HEAD_SIZE, tiny_model, tokens


def batches() -> list[dict[str, torch.Tensor]]:
    return [dict(zip(("input_ids", "attention_mask"), tokens([12, 12, length]), strict=True)) for length in (12, 7)]


def test_the_answers_stay_and_those_of_a_part_change():
    model, half = tiny_model(), SubNetwork(heads=2, ffn=20)
    batch, state = batches()[1], {name: tensor.clone() for name, tensor in model.state_dict().items()}
    before, part = model(**batch)["logits"], model(**batch, subnetwork=half)["logits"]
    rank_by_importance(model, batches())
    torch.testing.assert_close(model(**batch)["logits"], before, rtol=1e-4, atol=1e-4)
    assert (model(**batch, subnetwork=half)["logits"] - part).abs().max() > 1e-3
    assert any(not torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_heads_and_units_that_do_nothing_come_last():
    model = tiny_model()
    layers = [module for module in model.modules() if isinstance(module, Layer)]
    with torch.no_grad():
        for layer in layers:
            layer.attention.output.weight[:HEAD_SIZE] = 0
            layer.attention.value.weight[2 * HEAD_SIZE : 3 * HEAD_SIZE] = 0
            layer.attention.value.bias[2 * HEAD_SIZE : 3 * HEAD_SIZE] = 0
            layer.ffn.down.weight[::2] = 0
    batch = batches()[0]
    whole = model(**batch)["logits"]
    rank_by_importance(model, batches())
    torch.testing.assert_close(model(**batch, subnetwork=SubNetwork(heads=2, ffn=20))["logits"], whole)


def test_ranking_leaves_the_mode_and_no_hook():
    model = tiny_model().train()
    rank_by_importance(model, batches())
    assert model.training
    assert not any(module._forward_pre_hooks for module in model.modules())
