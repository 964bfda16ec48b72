"""Steps over a cache in place against PyTorch: at every bucket edge, over moves, chunks and full caches."""

from contextlib import contextmanager

import numpy as np
import pytest

from ctx_export.decoding.rotary import rescaled
from ctx_runtime.bundle import Bundle
from ctx_runtime.dispatch import Dispatcher
from ctx_runtime.generation.decoding import Decoding
from ctx_runtime.generation.ladder import Ladder
from ctx_runtime.resource_profile import RopeScaling
from tests.fixtures.decoder_bundles import wrap_decoder
from tests.fixtures.decoders import decoder_model, masked_logits, reference_logits, text

SLIDING = {"overflow": {"policy": "sliding"}}
FORMS = [("llama", "gqa"), ("llama", "attention"), ("gemma3_text", "attention")]


@contextmanager
def decoding(root, kind, *capacities, rows=1, **fields):
    """A `Decoding` that begins in the smallest bucket."""
    bundle = Bundle.open(wrap_decoder(kind, root / "bundle", capacities, **fields))
    manifest = bundle.manifest
    sessions = Dispatcher(bundle, backends=None, share_weights="off", session_budget=None)
    yield Decoding(manifest.decoder, sessions, Ladder(manifest, rows), manifest.buckets[0])
    sessions.close()


def fed(steps, ids, row=0):
    """The logits `(vocab,)` after `ids`, fed in chunks."""
    done = 0
    while done < len(ids):
        size = steps.room(row)
        logits = steps.extend(row, ids[done : done + size])
        done += size
    return logits.copy()


@pytest.mark.parametrize(("kind", "form"), FORMS)
def test_logits_are_those_of_pytorch_at_every_edge_over_every_move(tmp_path, kind, form):
    ids = text(60)
    expected = reference_logits(kind, ids)
    with decoding(tmp_path, kind, 8, 16, 48, 64, form=form) as steps:
        np.testing.assert_allclose(fed(steps, ids[:5]), expected[4], atol=1e-4)
        for position in range(5, 60):
            np.testing.assert_allclose(steps.step([ids[position]])[0], expected[position], atol=1e-4)
        assert steps.visited == ["ctx-8", "ctx-16", "ctx-48", "ctx-64"] and steps.cache.tokens == [ids]


@pytest.mark.parametrize("chunk", [1, 3, 8, 16])
def test_a_prompt_in_chunks_of_any_size_gives_the_same(tmp_path, chunk):
    ids = text(41)
    with decoding(tmp_path, "llama", 48, decoding={"chunk": chunk}) as steps:
        assert steps.room(0) == chunk
        np.testing.assert_allclose(fed(steps, ids), reference_logits("llama", ids)[-1], atol=1e-4)


@pytest.mark.parametrize(("kind", "form"), [*FORMS, ("gpt2", "gqa"), ("llama-yarn", "gqa")])
@pytest.mark.parametrize("prompt", [4, 16, 25])
def test_a_full_cache_goes_on_as_pytorch_does_under_the_same_mask(tmp_path, kind, form, prompt):
    ids = text(60)
    expected = masked_logits(kind, ids, capacity=16, sinks=3)
    with decoding(tmp_path, kind, 16, form=form, **SLIDING) as steps:
        np.testing.assert_allclose(fed(steps, ids[:prompt]), expected[prompt - 1], atol=1e-4)
        for position in range(prompt, 60):
            np.testing.assert_allclose(steps.step([ids[position]])[0], expected[position], atol=1e-4)


@pytest.mark.parametrize("form", ["gqa", "attention"])
def test_rows_of_different_length_step_together_move_together_and_end_alone(tmp_path, form):
    texts = [text(40, seed=seed) for seed in range(3)]
    expected = [reference_logits("llama", ids) for ids in texts]
    with decoding(tmp_path, "llama", 16, 48, rows=3, form=form) as steps:
        lengths = [3, 9, 1]
        for row, length in enumerate(lengths):
            np.testing.assert_allclose(fed(steps, texts[row][:length], row), expected[row][length - 1], atol=1e-4)
        for step in range(25):
            running = [row for row in range(3) if row != 1 or step < 5]
            logits = steps.step([texts[row][lengths[row]] if row in running else None for row in range(3)])
            for row in running:
                np.testing.assert_allclose(logits[row], expected[row][lengths[row]], atol=1e-4)
                lengths[row] += 1
        assert lengths == [28, 14, 26] and steps.visited == ["ctx-16", "ctx-48"]


def test_a_bucket_with_other_rotary_scaling_runs_the_text_again(tmp_path):
    buckets = [
        {"max_length": 16},
        {"max_length": 48, "subnetwork": {"position_resolution": {"kind": "linear", "factor": 2.0}}},
    ]
    ids = text(40)
    plain = reference_logits("llama", ids)
    with rescaled(decoder_model("llama"), RopeScaling(kind="linear", factor=2.0)):
        scaled = reference_logits("llama", ids)
    with decoding(tmp_path, "llama", 16, 48, buckets=buckets) as steps:
        fed(steps, ids[:10])
        for position in range(10, 40):
            expected = plain if position < 16 else scaled
            np.testing.assert_allclose(steps.step([ids[position]])[0], expected[position], atol=1e-4)
    assert np.abs(plain[20] - scaled[20]).max() > 1e-2


def test_the_next_buffers_are_taken_layer_by_layer_before_a_move_and_the_old_ones_go(tmp_path):
    with decoding(tmp_path, "llama", 16, 48) as steps:
        fed(steps, text(12))
        before = steps.cache.nbytes
        taken = []
        for token in text(5, seed=1):
            steps.step([token])
            taken.append(len(steps.cache.prepared))
        assert taken == [0, 0, 1, 2, 0]
        assert steps.cache.nbytes == 3 * before == sum(buffer.nbytes for buffer in steps.cache.buffers.values())
