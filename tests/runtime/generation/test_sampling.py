import numpy as np
import pytest
import torch
from transformers import generation as reference

from ctx_runtime.errors import InputError
from ctx_runtime.generation.sampling import Sampler, candidates, log_softmax, penalise
from ctx_runtime.generation.settings import Settings

HALF_QUARTER_EIGHTHS = np.log(np.array([0.125, 0.5, 0.125, 0.25], np.float32))


def logits(seed, size=50):
    return (np.random.default_rng(seed).standard_normal(size) * 3).astype(np.float32)


def test_temperature_zero_takes_the_likeliest():
    assert Sampler(Settings()).pick(HALF_QUARTER_EIGHTHS, []) == 1


def test_a_penalty_divides_positive_logits_and_multiplies_negative_ones_once():
    given = np.array([2.0, -1.0, 3.0], np.float32)
    np.testing.assert_array_equal(penalise(given, [0, 1, 0], 2.0), [1.0, -2.0, 3.0])
    np.testing.assert_array_equal(given, [2.0, -1.0, 3.0])
    assert Sampler(Settings(repetition_penalty=2.0)).pick(given, [2]) == 0


@pytest.mark.parametrize(
    ("options", "tokens"),
    [
        ({}, [1, 3, 0, 2]),
        ({"top_k": 2}, [1, 3]),
        ({"top_k": 9}, [1, 3, 0, 2]),
        ({"top_p": 0.5}, [1]),
        ({"top_p": 0.6}, [1, 3]),
        ({"top_p": 0.8}, [1, 3, 0]),
        ({"min_p": 0.49}, [1, 3]),
        ({"min_p": 0.6}, [1]),
        ({"top_k": 2, "top_p": 0.6}, [1]),  # 2/3 of what top-k leaves is above 0.6
        ({"top_p": 1e-9}, [1]),
        ({"min_p": 1.0}, [1]),
    ],
)
def test_what_may_be_drawn(options, tokens):
    assert candidates(HALF_QUARTER_EIGHTHS, Settings(temperature=1.0, **options))[0].tolist() == tokens


def test_a_temperature_divides_the_logits():
    _, probabilities = candidates(HALF_QUARTER_EIGHTHS, Settings(temperature=0.5))
    np.testing.assert_allclose(probabilities, np.array([16, 4, 1, 1]) / 22, rtol=1e-6)


@pytest.mark.parametrize("seed", range(20))
def test_probabilities_are_those_of_transformers(seed):
    random = np.random.default_rng([seed, 1])
    settings = Settings(
        temperature=float(random.uniform(0.3, 2)), top_k=int(random.integers(1, 40)),
        top_p=float(random.uniform(0.2, 1)), min_p=float(random.uniform(0, 0.3)), repetition_penalty=1.3,
    )  # fmt: skip
    seen = random.integers(0, 50, 20).tolist()
    processors = [
        reference.RepetitionPenaltyLogitsProcessor(settings.repetition_penalty),
        reference.TemperatureLogitsWarper(settings.temperature),
        reference.TopKLogitsWarper(settings.top_k),
        reference.TopPLogitsWarper(settings.top_p),
        reference.MinPLogitsWarper(settings.min_p),
    ]
    scores = torch.from_numpy(logits(seed))[None]
    for processor in processors:
        scores = processor(torch.tensor([seen]), scores)
    expected = scores.softmax(-1)[0].double().numpy()
    tokens, probabilities = candidates(penalise(logits(seed), seen, settings.repetition_penalty), settings)
    actual = np.zeros(50)
    actual[tokens] = probabilities / probabilities.sum()
    np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_tokens_are_drawn_as_often_as_they_are_probable():
    sampler = Sampler(Settings(temperature=1.0, seed=7))
    drawn = np.bincount([sampler.pick(HALF_QUARTER_EIGHTHS, []) for _ in range(4000)], minlength=4)
    np.testing.assert_allclose(drawn / 4000, [0.125, 0.5, 0.125, 0.25], atol=0.03)


def test_a_seed_draws_the_same_again_and_another_one_does_not():
    def draw(seed):
        sampler = Sampler(Settings(temperature=1.5, seed=seed))
        return [sampler.pick(logits(step), []) for step in range(30)]

    assert draw(3) == draw(3) != draw(4)


def test_log_softmax_is_that_of_pytorch():
    expected = torch.from_numpy(logits(0)).double().log_softmax(-1).numpy()
    np.testing.assert_allclose(log_softmax(logits(0)), expected, atol=1e-12)


@pytest.mark.parametrize(
    "option",
    [
        {"temperature": -0.1}, {"temperature": float("nan")}, {"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.1},
        {"min_p": -1}, {"repetition_penalty": 0}, {"max_new_tokens": 0}, {"seed": -1}, {"stop": ""},
        {"stop": ["a", ""]}, {"logprobs": -1},
    ],
)  # fmt: skip
def test_options_outside_of_their_range_are_refused(option):
    (name,) = option
    with pytest.raises(InputError, match=f"^{name}: expected "):
        Settings(**option)
