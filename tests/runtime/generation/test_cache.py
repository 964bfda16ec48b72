import numpy as np
import pytest

from ctx_runtime.decoder import DecoderRecord
from ctx_runtime.errors import MemoryBudgetError
from ctx_runtime.generation import cache as cache_module
from ctx_runtime.generation.cache import KVCache

RECORD = DecoderRecord(
    form="gqa", layers=2, kv_heads=3, head_size=5, cache_dtype="float16", vocab_size=7, sliding_window=None,
    bos_token_id=None, eos_token_ids=(), chat_template=None,
)  # fmt: skip


def test_one_buffer_of_zeros_for_each_layer_and_kind_in_the_dtype_of_the_cache():
    cache = KVCache(RECORD, rows=2, capacity=4)
    assert list(cache.buffers) == ["key.0", "value.0", "key.1", "value.1"]
    for buffer in cache.buffers.values():
        assert buffer.shape == (2, 3, 4, 5) and buffer.dtype == np.float16 and not buffer.any()
    assert cache.nbytes == 4 * 2 * 3 * 4 * 5 * 2


@pytest.mark.parametrize("prepared", [0, 3, 4, 9])
def test_growing_keeps_what_is_filled_and_nothing_else(prepared):
    cache = KVCache(RECORD, rows=2, capacity=4)
    cache.tokens = [[1], [1, 2, 3]]
    for number, buffer in enumerate(cache.buffers.values(), 1):
        buffer.fill(number)
    for _ in range(prepared):
        cache.prepare(6)
    cache.grow(6)
    assert cache.capacity == 6 and not cache.prepared
    for number, buffer in enumerate(cache.buffers.values(), 1):
        assert buffer.shape == (2, 3, 6, 5)
        assert (buffer[:, :, :3] == number).all() and not buffer[:, :, 3:].any()


def test_the_last_slot_of_a_row_is_copied_over_another():
    cache = KVCache(RECORD, rows=2, capacity=4)
    cache.buffers["key.1"][1, :, 3] = 8
    cache.copy_last(1, 2)
    assert (cache.buffers["key.1"][1, :, 2] == 8).all() and not cache.buffers["key.1"][0].any()


def test_what_the_system_has_no_memory_for_is_not_taken(monkeypatch):
    cache = KVCache(RECORD, rows=2, capacity=4)
    before = dict(cache.buffers)
    monkeypatch.setattr(cache_module, "available_bytes", lambda: cache.nbytes)
    with pytest.raises(MemoryBudgetError, match="2 x 9 tokens takes 2160 bytes, the system has 960 available") as no:
        cache.grow(9)
    assert no.value.hint == "the largest context that fits is 8 tokens"
    cache.prepare(9)
    assert not cache.prepared and cache.buffers == before and cache.capacity == 4
    cache.grow(8)
    assert cache.capacity == 8
    monkeypatch.setattr(cache_module, "available_bytes", lambda: None)
    assert KVCache(RECORD, rows=2, capacity=4).capacity == 4


def test_no_memory_left_is_one_line(monkeypatch):
    monkeypatch.setattr(cache_module, "available_bytes", lambda: None)
    huge = RECORD.model_copy(update={"kv_heads": 4096, "head_size": 1 << 16})
    with pytest.raises(MemoryBudgetError, match="no memory left for a KV cache of 36028797018963968 bytes"):
        KVCache(huge, rows=1, capacity=1 << 24)
