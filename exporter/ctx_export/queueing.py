"""How long requests take at a queue with several servers: on paper, and in a discrete-event simulation. Pure numpy.

Requests come at random (Poisson), wait in one queue, the oldest first, and each takes one server for as long as its
length asks for: M/G/c, which is what `ctx_runtime.scheduling` is with a worker a server and rows that run alone.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Load:
    """What arrives at a queue.

    Attributes:
        rate: requests a second.
        service_ms: what a request takes alone, in milliseconds, one entry a kind `(kinds,)`.
        share: of the requests, by kind `(kinds,)`; they add up to 1.
    """

    rate: float
    service_ms: np.ndarray
    share: np.ndarray

    @property
    def mean_ms(self) -> float:
        """What a request takes on average, in milliseconds."""
        return float(self.share @ self.service_ms)

    @property
    def busy_servers(self) -> float:
        """The servers that are busy on average: the offered load in erlangs."""
        return self.rate * self.mean_ms / 1e3


def waiting_probability(servers: int, busy: float) -> float:
    """Erlang's C: the probability that a request finds all `servers` busy, of which `busy` are on average; 1 if more.

    Source: A. K. Erlang, 1917; by the recursion of his B formula, which does not overflow.
    """
    if busy >= servers:
        return 1.0
    blocked = 1.0
    for count in range(1, servers + 1):
        blocked = busy * blocked / (count + busy * blocked)
    return servers * blocked / (servers - busy * (1 - blocked))


def response_ms(load: Load, servers: int, percent: float) -> float:
    """The time, in milliseconds, within which `percent` of the requests end, on paper; infinite where the queue grows.

    A request that waits does so for an exponential time, whose mean is that of exponential services times half of 1 and
    the squared variation of the services: Allen and Cunneen's approximation.
    """
    busy = load.busy_servers
    if busy >= servers:
        return math.inf
    waits = waiting_probability(servers, busy)
    variation = float(load.share @ load.service_ms**2) / load.mean_ms**2 - 1
    mean_wait_ms = load.mean_ms / (servers - busy) * (1 + variation) / 2
    late = 1 - percent / 100
    low, high = 0.0, float(load.service_ms.max()) + mean_wait_ms * math.log(max(waits / late, 1))
    for _ in range(60):
        middle = (low + high) / 2
        left = middle - load.service_ms
        tail = np.where(left < 0, 1.0, waits * np.exp(-np.maximum(left, 0) / mean_wait_ms))
        low, high = (middle, high) if float(load.share @ tail) > late else (low, middle)
    return high


def simulated_response_ms(load: Load, servers: int, percent: float, *, requests: int, seed: int) -> float:
    """The same, measured on `requests` that are drawn at random; the first tenth fills the queue and is not counted."""
    random = np.random.default_rng(seed)
    arrivals = np.cumsum(random.exponential(1e3 / load.rate, requests))
    services = random.choice(load.service_ms, size=requests, p=load.share)
    free_at = [0.0] * servers
    ended = np.empty(requests)
    for index, (arrival, service) in enumerate(zip(arrivals.tolist(), services.tolist(), strict=True)):
        ended[index] = end = max(free_at[0], arrival) + service
        heapq.heapreplace(free_at, end)
    return float(np.percentile((ended - arrivals)[requests // 10 :], percent))
