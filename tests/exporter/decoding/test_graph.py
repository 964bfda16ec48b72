"""Both forms of every architecture's decoder graph against PyTorch: one graph for prefill, chunks and decode."""

from __future__ import annotations

import numpy as np
import pytest

from tests.fixtures.decoders import ARCHITECTURES, decoder, decoder_model, reference_logits, stepper, text

LENGTH = 40  # well beyond the sliding windows
FORMS = ("attention", "gqa")
SCHEDULES = {
    "prefill into a full cache": (LENGTH, (LENGTH,)),
    "prefill with room": (64, (LENGTH,)),
    "chunks": (48, (7, 1, 12, 1, 19)),
    "token by token": (128, (1,) * LENGTH),
}


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_a_step_of_any_length_gives_pytorchs_logits_at_any_fill_and_capacity(kind, form, schedule):
    capacity, chunks = SCHEDULES[schedule]
    ids, expected, at = text(LENGTH), reference_logits(kind, text(LENGTH)), 0
    conversation = stepper(kind, form, capacity=capacity)
    for chunk in chunks:
        logits = conversation.step([ids[at : at + chunk]])
        at += chunk
        np.testing.assert_allclose(logits[0], expected[at - 1], atol=2e-5)
    assert at == LENGTH


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_rows_of_different_length_decode_together(kind, form):
    lengths = (3, 17, 9)
    rows = [text(length, seed=length) for length in lengths]
    conversation = stepper(kind, form, capacity=32, batch=3)
    logits = conversation.step(rows)
    for _ in range(4):
        for row, scores in zip(rows, logits, strict=True):
            np.testing.assert_allclose(scores, reference_logits(kind, row)[-1], atol=2e-5)
            row.append(int(scores.argmax()))
        logits = conversation.step([row[-1:] for row in rows])


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_greedy_tokens_are_pytorchs_over_128_tokens_and_a_larger_cache(kind):
    prompt = text(12)
    expected = decoder_model(kind).generate(
        input_ids=_batch(prompt), max_new_tokens=128, do_sample=False, eos_token_id=None
    )[0, 12:]
    for form in FORMS:
        ids = list(prompt)
        conversation = stepper(kind, form, capacity=140)
        logits = conversation.step([prompt])
        while len(ids) < 140:
            ids.append(int(logits.argmax()))
            logits = conversation.step([ids[-1:]]) if len(ids) <= 139 else logits
        assert ids[12:] == expected.tolist()


def test_the_graph_has_a_mask_for_the_kinds_of_layers_that_the_model_has():
    def masks(kind):
        return [value.name for value in decoder(kind).graph.graph.inputs if value.name.startswith("mask")]

    assert masks("llama") == ["mask"]
    assert masks("mistral") == ["mask_sliding"]
    assert masks("gemma3_text") == ["mask", "mask_sliding"]
    assert decoder("gemma3_text").shape.windows == (8, None)


def test_norms_and_rotations_are_single_operators():
    kinds = [node.op_type for node in decoder("qwen3").graph.graph]
    assert kinds.count("RMSNormalization") == 9 and kinds.count("RotaryEmbedding") == 4
    assert not {"Pow", "Neg", "ReduceMean"}.intersection(kinds)


def test_a_tied_head_is_stored_once():
    names = list(decoder("llama-3").graph.graph.initializers)
    shapes = [tuple(value.shape) for value in decoder("llama-3").graph.graph.initializers.values()]
    assert shapes.count((97, 64)) == 1 and shapes.count((64, 97)) == 0, names


def _batch(ids):
    import torch

    return torch.tensor([ids])
