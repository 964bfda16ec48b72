import math

import numpy as np
import pytest

from ctx_export.queueing import Load, response_ms, simulated_response_ms, waiting_probability


def exponential(rate, mean_ms):
    """Services that are as good as exponential: the middles of 2,000 equally likely slices."""
    slices = (np.arange(2000) + 0.5) / 2000
    return Load(rate, -mean_ms * np.log(1 - slices), np.full(2000, 1 / 2000))


def test_one_server_waits_as_often_as_it_is_busy():
    assert waiting_probability(1, 0.3) == pytest.approx(0.3)


@pytest.mark.parametrize(("servers", "busy"), [(2, 1.0), (5, 4.2), (40, 36.0)])
def test_erlangs_formula_is_the_sum_that_defines_it(servers, busy):
    last = busy**servers / math.factorial(servers) * servers / (servers - busy)
    total = sum(busy**count / math.factorial(count) for count in range(servers)) + last
    assert waiting_probability(servers, busy) == pytest.approx(last / total)


def test_more_work_than_servers_never_ends():
    load = Load(100, np.array([50.0]), np.array([1.0]))
    assert load.busy_servers == 5 and waiting_probability(5, 5) == 1 and response_ms(load, 5, 95) == math.inf


def test_exponential_services_at_one_server_are_known_exactly():
    load = exponential(8, 100.0)
    rate_left = 1 / 100 - 8 / 1e3  # of the exponential response of M/M/1, by millisecond
    assert response_ms(load, 1, 95) == pytest.approx(-math.log(0.05) / rate_left, rel=0.02)


@pytest.mark.parametrize("servers", [1, 3, 12])
@pytest.mark.parametrize("busy", [0.3, 0.7, 0.85])
@pytest.mark.parametrize("load", ["exponential", "equal", "two kinds"])
def test_the_simulation_agrees_with_the_paper(servers, busy, load):
    rate = servers * busy / 0.05
    made = {
        "exponential": exponential(rate, 50.0),
        "equal": Load(rate, np.array([50.0]), np.array([1.0])),
        "two kinds": Load(rate, np.array([20.0, 320.0]), np.array([0.9, 0.1])),
    }[load]
    assert made.busy_servers == pytest.approx(servers * busy, rel=0.01)
    simulated = simulated_response_ms(made, servers, 95, requests=60_000, seed=1)
    assert response_ms(made, servers, 95) == pytest.approx(simulated, rel=0.15)


def test_a_simulation_can_be_repeated():
    load = exponential(5, 100.0)
    first, again, other = (simulated_response_ms(load, 1, 95, requests=2000, seed=seed) for seed in (3, 3, 4))
    assert first == again != other
