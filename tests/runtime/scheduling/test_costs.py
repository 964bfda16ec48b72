import pytest

from ctx_runtime.scheduling.costs import BatchCosts


def settled(seconds, *, most=8, rounds=200):
    """What the costs settle on when a batch of `rows` rows of 20 tokens takes `seconds(rows)`."""
    costs, chosen = BatchCosts(), []
    for _ in range(rounds):
        rows = costs.cheapest(32, 20, most)
        costs.record(32, 20, rows, 20 * rows, seconds(rows))
        chosen.append(rows)
    return costs, chosen


@pytest.mark.parametrize(
    ("seconds", "best"),
    [
        (lambda rows: 0.001 * rows**1.2, 1),
        (lambda rows: 0.005 + 0.001 * rows, 8),
        (lambda rows: 0.001 * rows * (0.8 if rows == 4 else 1.0), 4),
    ],
)
def test_the_cheapest_size_per_token_is_found_and_kept(seconds, best):
    _, chosen = settled(seconds)
    assert set(chosen[:12]) == {1, 2, 4, 8}
    assert chosen[12:].count(best) >= 185


def test_a_size_that_has_become_cheap_is_found_again():
    costs, _ = settled(lambda rows: 0.001 * rows * rows)
    late = []
    for _ in range(3000):
        rows = costs.cheapest(32, 20, 8)
        costs.record(32, 20, rows, 20 * rows, 0.001)
        late.append(rows)
    assert late[-100:].count(8) > 90


def test_no_size_is_larger_than_what_is_queued():
    costs, _ = settled(lambda rows: 0.005 + 0.001 * rows)
    assert [costs.cheapest(32, 20, most) for most in (1, 2, 3, 4, 6)] == [1, 2, 3, 4, 6]


def test_the_last_batches_tell_how_long_tokens_take():
    costs = BatchCosts()
    assert costs.seconds(100) == 1.0
    for _ in range(100):
        costs.record(32, 20, 1, 20, 0.04)
    assert costs.seconds(100) == pytest.approx(0.2)
    for _ in range(100):
        costs.record(512, 200, 1, 200, 0.2)
    assert costs.seconds(100) == pytest.approx(0.1, rel=0.01)
