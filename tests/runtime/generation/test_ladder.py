import pytest

from ctx_runtime.bundle import Bundle
from ctx_runtime.errors import InputError, MemoryBudgetError, TooLongError
from ctx_runtime.generation.ladder import Ladder
from tests.fixtures.decoder_bundles import wrap_decoder

BYTES_A_TOKEN = 2 * 2 * 2 * 16 * 4  # keys and values, layers, heads, numbers, float32


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return Bundle.open(wrap_decoder("llama", tmp_path_factory.mktemp("ladder") / "bundle")).manifest


def budgeted(manifest, *budgets):
    """The manifest with other memory budgets of its buckets."""
    buckets = tuple(
        bucket.model_copy(update={"memory_budget": budget})
        for bucket, budget in zip(manifest.buckets, budgets, strict=True)
    )
    return manifest.model_copy(update={"buckets": buckets})


def sliding(manifest):
    return manifest.model_copy(update={"overflow": manifest.overflow.model_copy(update={"policy": "sliding"})})


@pytest.mark.parametrize(
    ("prompt", "new", "bucket"),
    [
        (1, 1, "ctx-16"), (15, 1, "ctx-16"), (16, 1, "ctx-48"), (10, 6, "ctx-16"), (10, 7, "ctx-48"),
        (12, None, "ctx-16"), (13, None, "ctx-48"), (48, None, "ctx-160"), (158, None, "ctx-160"), (100, 60, "ctx-160"),
    ],
)  # fmt: skip
def test_the_smallest_bucket_holds_prompt_and_answer_or_reserve(manifest, prompt, new, bucket):
    chosen, reason = Ladder(manifest).choose(prompt, new)
    assert chosen.name == bucket
    assert reason.startswith(f"{prompt} tokens and {new or 4} {'new' if new else 'in reserve'}: ")


def test_memory_is_stated_before_it_is_taken(manifest):
    ladder = Ladder(manifest, rows=3)
    assert [ladder.bytes_in(bucket) for bucket in manifest.buckets] == [3 * n * BYTES_A_TOKEN for n in (16, 48, 160)]
    assert "0.1 MB in ctx-16" in Ladder(manifest, rows=8).choose(3, 4)[1]


@pytest.mark.parametrize(("prompt", "new"), [(160, None), (160, 1), (100, 61), (1000, None)])
def test_too_long_is_one_line_unless_old_tokens_may_leave(manifest, prompt, new):
    with pytest.raises(
        TooLongError, match=f"a prompt of {prompt} tokens and {new or 1} new ones are more than the 160"
    ):
        Ladder(manifest).choose(prompt, new)
    assert Ladder(sliding(manifest)).choose(prompt, new)[0].name == "ctx-160"


def test_too_little_memory_names_the_largest_context_that_fits(manifest):
    tight = budgeted(manifest, None, 48 * BYTES_A_TOKEN, 48 * BYTES_A_TOKEN)
    assert Ladder(tight).choose(40, 8)[0].name == "ctx-48"
    with pytest.raises(MemoryBudgetError, match="1 x 49 tokens take 81920 bytes in ctx-160, its budget is 24576") as no:
        Ladder(tight).choose(40, 9)
    assert no.value.hint == "the largest context that fits is 48 tokens"
    with pytest.raises(MemoryBudgetError, match="2 x 41 tokens"):
        Ladder(tight, rows=2).choose(40, None)
    nothing = budgeted(manifest, 1, 1, 1)
    with pytest.raises(MemoryBudgetError) as no:
        Ladder(nothing).choose(1, 1)
    assert no.value.hint == "the largest context that fits is 0 tokens"


def test_what_the_system_has_bounds_every_bucket(manifest):
    ladder = Ladder(manifest, available=48 * BYTES_A_TOKEN)
    assert ladder.choose(40, 8)[0].name == "ctx-48" and ladder.after(manifest.buckets[1]) is None
    with pytest.raises(MemoryBudgetError, match=r"take 81920 bytes in ctx-160, the system has 24576 available$") as no:
        ladder.choose(40, 9)
    assert no.value.hint == "the largest context that fits is 48 tokens"


def test_a_bucket_over_its_budget_is_never_moved_to(manifest):
    small, middle, large = manifest.buckets
    assert Ladder(manifest).after(small) is middle and Ladder(manifest).after(large) is None
    gap = budgeted(manifest, None, 1, None)
    assert Ladder(gap).after(gap.buckets[0]).name == "ctx-160" and Ladder(gap).choose(16, 1)[0].name == "ctx-160"
    tight = budgeted(manifest, None, None, 1)
    assert Ladder(tight).after(tight.buckets[1]) is None and Ladder(tight).limit(40) == 8


def test_an_answer_of_unknown_length_ends_where_the_largest_bucket_is_full(manifest):
    assert Ladder(manifest).limit(100) == 60
    assert Ladder(sliding(manifest)).limit(500) == 4


def test_an_empty_prompt_is_refused(manifest):
    with pytest.raises(InputError, match="the prompt is empty"):
        Ladder(manifest).choose(0, 1)
