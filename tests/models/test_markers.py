from __future__ import annotations

import dataclasses
import functools
from collections import Counter

import numpy as np
import onnx_ir as ir
import pytest
import torch

from ctx_export.intervals import Interval
from ctx_export.specialising import specialise
from ctx_models import markers
from ctx_models.errors import ModelError
from ctx_models.heads import TaskModel
from ctx_models.subnetwork import SubNetwork
from tests.fixtures.adaptive import (
    FFN,
    HEAD_SIZE,
    HEADS,
    HIDDEN,
    SEGMENTS,
    export_marked,
    tiny_model,
    tokens,
    without_markers,
)
from tests.fixtures.graphs import run

LAYERS, LEVELS = 2, 1
ATTENTIONS, FEED_FORWARDS = LAYERS + LEVELS + 2, LAYERS + LEVELS
"""In the network; the fusion has two attentions beside its levels."""


@functools.cache
def model() -> TaskModel:
    return tiny_model(num_layers=LAYERS, segment=dataclasses.replace(SEGMENTS, layers=LEVELS))


@functools.cache
def marked() -> ir.Model:
    return export_marked(model())


def nodes(op_type: str) -> list[ir.Node]:
    return [node for node in marked().graph if (node.domain, node.op_type) == ("ctx", op_type)]


def test_outside_of_an_export_a_marker_is_nothing():
    states = torch.randn(2, 3)
    assert markers.exit_after(states, 1) is states
    assert markers.elastic(states, "ffn", 1) is states


def test_every_layer_has_its_exit():
    assert [node.attributes.get_int("layer") for node in nodes("Exit")] == [1, 2]


def test_every_weight_and_bias_that_is_cut_is_marked_and_stays_an_initializer():
    shapes = Counter(
        (tuple(node.inputs[0].shape), node.attributes.get_string("axis_kind")) for node in nodes("Elastic")
    )
    width = HEADS * HEAD_SIZE
    assert shapes == {
        ((width, HIDDEN), "heads"): 4 * ATTENTIONS,
        ((width,), "heads"): 3 * ATTENTIONS,
        ((FFN, HIDDEN), "ffn"): 2 * FEED_FORWARDS,
        ((FFN,), "ffn"): FEED_FORWARDS,
    }
    for node in nodes("Elastic"):
        assert node.inputs[0].is_initializer()
        assert node.outputs[0].shape == node.inputs[0].shape
        assert (
            node.attributes.get_int("unit") == {"heads": HEAD_SIZE, "ffn": 1}[node.attributes.get_string("axis_kind")]
        )


def test_the_numbers_of_rotary_positions_are_marked_once():
    (inv_freq,), (scale,) = nodes("InvFreq"), nodes("RopeScale")
    assert (tuple(inv_freq.inputs[0].shape), tuple(scale.inputs[0].shape)) == ((HEAD_SIZE // 2,), ())


def test_no_reshape_holds_the_number_of_heads():
    constants = {
        int(size)
        for node in marked().graph
        if node.op_type == "Concat" and node.outputs[0].uses()[0].node.op_type == "Reshape"
        for value in node.inputs
        if value.const_value is not None
        for size in value.const_value.numpy()
    }
    assert HEAD_SIZE in constants
    assert not constants.intersection({HEADS, HEADS * HEAD_SIZE})


@pytest.mark.parametrize("lengths", [[1], [16, 3], [1, 7, 2]])
def test_without_its_markers_the_graph_gives_the_answers_of_the_model(lengths):
    ids, mask = tokens(lengths)
    found = run(without_markers(marked()), {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})
    with torch.no_grad():
        expected = model()(ids, mask)
    np.testing.assert_allclose(found["logits"], expected["logits"].numpy(), atol=1e-4)


def test_without_padding_attention_has_no_mask():
    bucket = specialise(without_markers(marked()), length=Interval(1, 16), all_ones="attention_mask")
    attentions = [node for node in bucket.graph if node.op_type == "Attention"]
    assert len(attentions) == ATTENTIONS
    assert not [node for node in attentions if any(value is not None for value in node.inputs[3:])]
    ids, _ = tokens([9, 9])
    with torch.no_grad():
        np.testing.assert_allclose(run(bucket, {"input_ids": ids.numpy()})["logits"], model()(ids)["logits"], atol=1e-4)


def test_a_part_is_not_exported():
    class Part(torch.nn.Module):
        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return model()(ids, subnetwork=SubNetwork(layers=1))["logits"]

    with pytest.raises(ModelError, match="a model is exported whole"):
        torch.export.export(Part(), (tokens([9])[0],))
