"""Rotary positions at another resolution over the same weights: one graph against PyTorch with it built in."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from ctx_export.decoding.graph import Decoder
from ctx_export.decoding.grouped import lower_to_grouped
from ctx_export.decoding.rotary import rescale, rescaled
from ctx_runtime.errors import ExportError
from ctx_runtime.generation.stepping import Stepper
from ctx_runtime.resource_profile import RopeScaling
from tests.fixtures.decoders import decoder, decoder_model, decoder_record, open_graph, text

KINDS = ("linear", "ntk", "yarn")


def scaled_model(kind, factor):
    """PyTorch's model of a configuration that says the scaling itself, with the same weights."""
    model = decoder_model("llama")
    config = copy.deepcopy(model.config)
    parameters = {"rope_type": kind, "factor": factor, "rope_theta": 10000.0}
    if kind == "ntk":  # section 3.1 of arXiv:2309.00071
        parameters = {"rope_type": "default", "rope_theta": 10000.0 * factor ** (16 / 14)}
    elif kind == "yarn":
        parameters["original_max_position_embeddings"] = config.max_position_embeddings
    config.rope_parameters = parameters
    config.max_position_embeddings = int(config.max_position_embeddings * factor)
    scaled = type(model)(config).eval()
    scaled.load_state_dict(model.state_dict())
    return scaled


def logits_of(model, ids):
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].numpy()


@pytest.mark.parametrize("kind", KINDS)
def test_a_rescaled_graph_is_the_model_with_that_scaling(kind):
    ids, scaling = text(300), RopeScaling(kind=kind, factor=2.0)
    expected = logits_of(scaled_model(kind, 2.0), ids)
    assert np.abs(logits_of(decoder_model("llama"), ids) - expected).max() > 1e-2
    graph = rescale(decoder("llama").graph, decoder_model("llama").config, scaling)
    for form in ("attention", "gqa"):
        made = graph if form == "attention" else lower_to_grouped(Decoder(graph, decoder("llama").shape))
        run, inputs = open_graph(made)
        actual = Stepper(run, inputs, decoder_record("llama", form), capacity=300).read(ids)[-1]
        np.testing.assert_allclose(actual, expected, atol=2e-5)
    with rescaled(decoder_model("llama"), scaling):
        np.testing.assert_allclose(logits_of(decoder_model("llama"), ids), expected, atol=1e-6)


@pytest.mark.parametrize("kind", ["llama-yarn", "gemma3_text", "gpt2"])
def test_a_model_without_plain_rotary_positions_is_refused(kind):
    with pytest.raises(ExportError, match="can't be rescaled by bucket"):
        rescale(decoder(kind).graph, decoder_model(kind).config, RopeScaling(kind="linear", factor=2.0))
