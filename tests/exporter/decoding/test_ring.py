"""A cache that has run full keeps its first tokens and the last ones: both forms against PyTorch under that mask."""

from __future__ import annotations

import numpy as np
import pytest

from ctx_runtime.generation.feeds import Chunk, attention_feeds, grouped_feeds
from ctx_runtime.generation.ring import retired_slot, write_slot
from tests.fixtures.decoders import WINDOW, decoder, decoder_session, masked_logits, text

CAPACITY, SINKS, LENGTH = 16, 3, 60


def ring_logits(kind, form, ids):
    """The graph's logits `(length, vocab)`, token by token over a cache of `CAPACITY` slots."""
    session, shape, rows = decoder_session(kind, form), decoder(kind).shape, []
    names = [value.name for value in session.get_inputs()]
    cache = {
        name: np.zeros((1, shape.kv_heads, CAPACITY, shape.head_size), np.float32) for name in names if "past" in name
    }
    slots = np.full((1, CAPACITY), -1)
    for position, token in enumerate(ids):
        start = np.array([position])
        if form == "attention":
            at = write_slot(position, capacity=CAPACITY, sinks=SINKS)
            slots[0, at] = position
            feeds = attention_feeds(
                Chunk(np.array([[token]]), np.ones(1, np.int64), start, np.array([at])), slots, WINDOW
            )
        else:
            if position >= CAPACITY:
                retired = retired_slot(position - 1, capacity=CAPACITY, sinks=SINKS)
                for array in cache.values():
                    array[:, :, retired] = array[:, :, -1]
            feeds = grouped_feeds(
                Chunk(np.array([[token]]), np.ones(1, np.int64), start, np.minimum(start, CAPACITY - 1))
            )
        outputs = session.run(None, {name: array for name, array in feeds.items() if name in names} | cache)
        rows.append(outputs[0][0])
        cache = dict(zip(cache, outputs[1:], strict=True))
    return np.array(rows)


@pytest.mark.parametrize(
    ("kind", "form"), [("llama", "attention"), ("llama", "gqa"), ("gpt2", "gqa"), ("gemma3_text", "attention")]
)
def test_a_full_cache_goes_on_as_pytorch_does_under_the_same_mask(kind, form):
    ids = text(LENGTH)
    np.testing.assert_allclose(
        ring_logits(kind, form, ids), masked_logits(kind, ids, capacity=CAPACITY, sinks=SINKS), atol=2e-5
    )
