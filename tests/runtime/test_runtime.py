import threading

import numpy as np
import pytest

from ctx_runtime import Runtime
from ctx_runtime.errors import BackendError, CtxError, InputError, TooLongError
from ctx_runtime.manifest import SpecialTokens
from ctx_runtime.resource_profile import Overflow
from tests.fixtures.bundles import VOCABULARY, edit_graph, expected, write_tiny_bundle

EDGES = [1, 2, 15, 16, 17, 47, 48]
EXACT = {"rtol": 0, "atol": 1e-6}


def ids(length, seed=0):
    return np.random.default_rng([length, seed]).integers(3, VOCABULARY, length)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny", tokenizer=True)


@pytest.fixture(scope="module")
def runtime(bundle):
    with Runtime.open(bundle) as opened:
        yield opened


def opened(root, **fields):
    return Runtime.open(write_tiny_bundle(root / "b", **fields), share_weights="off")


def check(result, tokens):
    """`result` of one row without a batch axis answers `tokens` as numpy does."""
    answer = expected(tokens[None])
    for name in answer:
        np.testing.assert_allclose(result.outputs[name], answer[name][0], **EXACT)


@pytest.mark.parametrize("length", EDGES)
def test_alone_at_every_edge(runtime, length):
    result = runtime.run({"input_ids": ids(length)})
    check(result, ids(length))
    (row,) = result.dispatch
    assert (row.length, row.padding, row.segments) == (length, 0, 1)
    assert row.bucket == ("ctx-16" if length <= 16 else "ctx-48")


@pytest.mark.parametrize("length", EDGES)
def test_alone_in_a_batch_and_padded_are_the_same(runtime, length):
    alone = runtime.run({"input_ids": ids(length)}).outputs
    twice = runtime.run({"input_ids": np.stack([ids(length)] * 2)}).outputs
    padded = np.zeros((1, length + 3), int)
    padded[0, :length] = ids(length)
    cut = runtime.run({"input_ids": padded, "attention_mask": padded != 0}).outputs
    mates = runtime.run([{"input_ids": ids(n)} for n in (*EDGES, length)])[-1].outputs
    for name in alone:
        for other in (twice[name][1], cut[name][0], mates[name]):
            np.testing.assert_allclose(other, alone[name], **EXACT)


@pytest.mark.parametrize("length", [1, 15, 16])
def test_a_larger_bucket_gives_the_same_answer(tmp_path, runtime, length):
    with opened(tmp_path, buckets=(48,)) as large:
        assert large.run({"input_ids": ids(length)}).dispatch[0].bucket == "ctx-48"
        check(large.run({"input_ids": ids(length)}), ids(length))


def test_rows_of_a_masked_batch_end_in_zeros(runtime):
    tokens = np.zeros((3, 14), int)
    lengths = [14, 12, 13]
    for row, length in enumerate(lengths):
        tokens[row, :length] = ids(length)
    result = runtime.run({"input_ids": tokens, "attention_mask": (tokens != 0).astype(np.int64)})
    assert result.outputs["hidden"].shape == (3, 14, 4) and not result.outputs["hidden"][1, 12:].any()
    assert [row.length for row in result.dispatch] == lengths
    assert [row.padding for row in result.dispatch] == [0, 2, 1]
    answer = expected(tokens, (tokens != 0).astype(np.int64))
    np.testing.assert_allclose(result.outputs["pooled"], answer["pooled"], **EXACT)


def test_a_mixed_list_keeps_its_order(runtime):
    lengths = [48, 1, 17, 16, 90, 3, 16, 47]
    for length, result in zip(lengths, runtime.run([{"input_ids": ids(n)} for n in lengths]), strict=True):
        assert result.dispatch[0].length == length
        if length <= 48:
            check(result, ids(length))


def test_a_model_that_feels_padding_is_never_padded(tmp_path):
    with opened(tmp_path, padding_invariant=False) as strict:
        results = strict.run([{"input_ids": ids(n)} for n in (9, 10, 10)])
        assert [result.dispatch[0].padding for result in results] == [0, 0, 0]
        assert strict.stats().buckets["ctx-16"].runs == 2


def test_segments_equal_windows_cut_by_hand(tmp_path):
    with opened(tmp_path, overflow=Overflow(overlap=0)) as runtime:
        tokens = ids(48 * 3)
        result = runtime.run({"input_ids": tokens})
        by_hand = [runtime.run({"input_ids": tokens[start : start + 48]}) for start in (0, 48, 96)]
    check(result, tokens)
    mean = np.mean([window.outputs["pooled"] for window in by_hand], axis=0)
    np.testing.assert_allclose(result.outputs["pooled"], mean, **EXACT)
    (row,) = result.dispatch
    assert (row.length, row.bucket, row.segments, row.padding) == (144, "ctx-48", 3, 0)
    assert row.reason == "144 tokens in 3 segments of 48"


@pytest.mark.parametrize("length", [49, 50, 91, 92, 93, 500])
def test_token_outputs_of_segments_join_without_a_seam(tmp_path, length):
    special = SpecialTokens(prefix=(1,), suffix=(2,))
    tokens = np.concatenate([[1], ids(length - 2), [2]])
    with opened(tmp_path, special_tokens=special) as runtime:
        result = runtime.run({"input_ids": tokens[None]})
        assert runtime.explain(length).segments == result.dispatch[0].segments
    np.testing.assert_allclose(result.outputs["hidden"], expected(tokens[None])["hidden"], **EXACT)


def test_truncation_says_so_and_keeps_the_closing_tokens(tmp_path):
    special = SpecialTokens(prefix=(1,), suffix=(2,))
    tokens = np.concatenate([[1], ids(60), [2]])
    with opened(tmp_path, overflow=Overflow(policy="truncate"), special_tokens=special) as runtime:
        result = runtime.run({"input_ids": tokens})
    check(result, np.concatenate([tokens[:47], [2]]))
    assert result.dispatch[0].reason == "truncated: 14 of 62 tokens beyond 48 were cut off"


def test_too_long_is_an_error_where_the_policy_says_so(tmp_path):
    with opened(tmp_path, overflow=Overflow(policy="error")) as runtime:
        check(runtime.run({"input_ids": ids(48)}), ids(48))
        with pytest.raises(TooLongError, match="49 tokens are more than the 48"):
            runtime.run({"input_ids": ids(49)})


def test_text_goes_through_the_tokenizer_uncut(runtime):
    tokens = ids(200)
    text = " ".join(f"w{token}" for token in tokens)
    result = runtime.run_text(text)
    assert result.dispatch[0].length == 200 and result.outputs["hidden"].shape == (200, 4)
    check(runtime.run_text(["w5", text])[0], np.array([5]))


def test_text_without_a_tokenizer_is_an_error(tmp_path):
    with opened(tmp_path) as runtime, pytest.raises(InputError, match="has no tokenizer"):
        runtime.run_text("w5")


def test_an_empty_text_is_an_error(runtime):
    with pytest.raises(InputError, match="empty"):
        runtime.run_text("")


@pytest.mark.parametrize("length", [*EDGES, 49, 300])
def test_explain_tells_what_run_does(runtime, length):
    explanation, row = runtime.explain(length), runtime.run({"input_ids": ids(length)}).dispatch[0]
    assert (explanation.bucket, explanation.backend, explanation.segments, explanation.reason) == (
        row.bucket,
        row.backend,
        row.segments,
        row.reason,
    )


@pytest.mark.parametrize("length", [0, -1])
def test_explain_takes_lengths_from_one(runtime, length):
    with pytest.raises(InputError):
        runtime.explain(length)


def test_stats_count_rows_tokens_and_padding(tmp_path):
    with opened(tmp_path) as runtime:
        runtime.run([{"input_ids": ids(n)} for n in (14, 16, 20)])
        stats = runtime.stats()
    short = stats.buckets["ctx-16"]
    assert (short.runs, short.rows, short.tokens, short.padding) == (1, 2, 30, 2)
    assert stats.buckets["ctx-48"].tokens == 20
    assert stats.open_sessions == 2 and stats.resident_bytes > 0 and stats.fallbacks == ()


def test_a_batch_larger_than_the_bucket_takes_is_split(runtime):
    tokens = np.stack([ids(5, seed) for seed in range(20)])
    np.testing.assert_allclose(
        runtime.run({"input_ids": tokens}).outputs["pooled"], expected(tokens)["pooled"], **EXACT
    )


def test_a_closed_runtime_says_so(bundle):
    runtime = Runtime.open(bundle, share_weights="off")
    runtime.run({"input_ids": ids(3)})
    runtime.close()
    for call in (lambda: runtime.run({"input_ids": ids(3)}), lambda: runtime.explain(3)):
        with pytest.raises(CtxError, match="closed"):
            call()
    runtime.close()


def test_threads_get_their_own_answers(runtime):
    failures = []

    def work(seed):
        lengths = np.random.default_rng(seed).integers(1, 120, 40)
        for length in lengths:
            tokens = ids(int(length), seed)
            result = runtime.run({"input_ids": tokens})
            if not np.allclose(result.outputs["hidden"], expected(tokens[None])["hidden"][0], atol=1e-6):
                failures.append(length)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


@pytest.mark.parametrize("share_weights", ["mmap", "off"])
def test_sharing_weights_does_not_change_an_answer(bundle, share_weights):
    with Runtime.open(bundle, share_weights=share_weights) as runtime:
        check(runtime.run({"input_ids": ids(20)}), ids(20))
        assert runtime.stats().fallbacks == ()


def test_an_empty_list_gives_an_empty_list(runtime):
    assert runtime.run([]) == []


def test_an_output_of_another_shape_is_an_error_not_an_answer(tmp_path):
    root = write_tiny_bundle(tmp_path / "b")

    def keep_axis(model):
        mean = next(node for node in model.graph.node if node.op_type == "ReduceMean")
        mean.attribute[0].i = 1

    edit_graph(root, keep_axis, "graphs/ctx-48.unmasked.onnx")
    with Runtime.open(root, share_weights="off") as runtime, pytest.raises(BackendError, match="'pooled' has shape"):
        runtime.run({"input_ids": ids(5)})
