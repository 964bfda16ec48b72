"""A Ray Serve application: replicas for each group of buckets, and a router that chooses the group by length.

A short input never waits behind a long one of another group, and each group has the replicas, cores and GPUs that its
lengths need. Every replica holds the whole bundle and opens what it runs, so any of them gives the right answer: the
groups decide how fast it comes.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ray import serve
from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError
from ray.serve.handle import DeploymentHandle
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ctx_runtime.bundle import Bundle
from ctx_runtime.errors import BackendError, CtxError, InputError, OverloadError
from ctx_runtime.manifest import Manifest
from ctx_runtime.padding import RowLayout
from ctx_runtime.resource_profile import BackendName
from ctx_runtime.results import Result
from ctx_runtime.runtime import Inputs, Runtime

_ATTEMPTS = 4
"""How often a request is given to a replica, if those that had it before died."""
_RETRY_AFTER_S = 1.0
"""What a caller is told who met a full queue: a guess, since a router does not see how long requests take."""
_BOUNDED_BY_GROUPS = 1 << 20
"""Requests that a router may have at once: each waits in the queue of its group, or is refused at once."""


@dataclass(frozen=True)
class Group:
    """Buckets that have replicas of their own.

    Attributes:
        max_length: the longest input that goes to it, in tokens; None: what is longer than all other groups take.
        min_replicas: how many there always are.
        max_replicas: how many Ray may start when requests wait.
        target_ongoing_requests: that a replica should have on average; more replicas start above it.
        max_ongoing_requests: that a replica has at once; those beyond it wait in the router.
        max_queued_requests: that may wait in a router; one more is refused with `OverloadError`.
        num_cpus: cores of a replica.
        num_gpus: GPUs of a replica.
    """

    max_length: int | None = None
    min_replicas: int = 1
    max_replicas: int = 1
    target_ongoing_requests: float = 4
    max_ongoing_requests: int = 16
    max_queued_requests: int = 256
    num_cpus: float = 1
    num_gpus: float = 0

    @property
    def name(self) -> str:
        """Of its deployment."""
        return "longer" if self.max_length is None else f"ctx-{self.max_length}"


def application(
    bundle: str | Path,
    groups: Sequence[Group] = (Group(),),
    *,
    backends: Sequence[BackendName] | None = None,
    router_replicas: int = 1,
    health_check_period_s: float = 10,
) -> serve.Application:
    """What `serve.run` takes; the handle that it returns has `run`, which takes what `Runtime.run` takes of one input.

    Over HTTP, `POST /` takes a JSON object of inputs by name, and gives `{"outputs": {…}, "dispatch": [{…}]}`. What the
    bundle refuses is 400; a full queue is 503 with Retry-After.

    Args:
        bundle: its folder, which every machine has at the same place.
        groups: ascending by `max_length`; the last one has none.
        backends: in order of preference, for every bucket; by default what each bucket says.
        router_replicas: processes that read requests and choose groups.
        health_check_period_s: how often each replica must run one token; one that can't is replaced.

    Raises:
        BundleError: the folder is not a sound bundle.
        InputError: groups out of order, or a bundle that generates text.
    """
    manifest = Bundle.open(bundle).manifest
    if manifest.decoder is not None:
        raise InputError(f"{manifest.name} generates text and has no other outputs", hint="use Runtime.generate")
    ends = _ends(groups)
    folder = str(Path(bundle).absolute())
    replicas = [_deployment(group, health_check_period_s).bind(folder, backends) for group in groups]
    router = serve.deployment(
        name="router",
        num_replicas=router_replicas,
        max_ongoing_requests=_BOUNDED_BY_GROUPS,
        ray_actor_options={"num_cpus": 0},
    )
    return router(Router).bind(manifest, ends, *replicas)


def _ends(groups: Sequence[Group]) -> list[int]:
    """The longest input of each group but the last, which takes any."""
    ends = [group.max_length for group in groups]
    bounded = [end for end in ends if end is not None]
    if ends != [*sorted(set(bounded)), None]:
        raise InputError("groups must ascend by max_length, and only the last one has none")
    return bounded


def _deployment(group: Group, health_check_period_s: float) -> serve.Deployment:
    return serve.deployment(
        name=group.name,
        max_ongoing_requests=group.max_ongoing_requests,
        max_queued_requests=group.max_queued_requests,
        ray_actor_options={"num_cpus": group.num_cpus, "num_gpus": group.num_gpus},
        health_check_period_s=health_check_period_s,
        autoscaling_config={
            "min_replicas": group.min_replicas,
            "max_replicas": group.max_replicas,
            "target_ongoing_requests": group.target_ongoing_requests,
        },
    )(Replica)


class Replica:
    """A runtime in a process of its own."""

    def __init__(self, bundle: str, backends: Sequence[BackendName] | None) -> None:
        self._runtime = Runtime.open(bundle, backends=backends)
        self._one_token = {
            spec.name: np.zeros([dim if isinstance(dim, int) else 1 for dim in spec.shape], spec.dtype)
            for spec in self._runtime.bundle.manifest.inputs
            if spec.role != "mask"
        }
        self.check_health()

    async def run(self, inputs: Inputs) -> Result:
        """Queue one input; it runs in a batch with others that wait here."""
        return await asyncio.wrap_future(self._runtime.submit(inputs))

    def check_health(self) -> None:
        """Run one token; what this raises, Ray takes for the end of the replica."""
        self._runtime.run(self._one_token)


class Router:
    """Reads inputs, chooses their group, and gives them to another replica if theirs dies."""

    def __init__(self, manifest: Manifest, ends: Sequence[int], *replicas: DeploymentHandle) -> None:
        self._layout = RowLayout(manifest.inputs, manifest.outputs)
        self._ends = ends
        self._replicas = replicas

    async def run(self, inputs: Inputs) -> Result:
        """The result of one input, as `Runtime.run` gives it; its longest row decides the group.

        Raises:
            InputError: a name, dtype, shape or value that the bundle does not take.
            OverloadError: the group has as many requests waiting as it may.
            BackendError: every replica that had the request died.
        """
        rows, _ = self._layout.read(inputs)
        group = self._replicas[bisect_left(self._ends, max(row.length for row in rows))]
        for _ in range(_ATTEMPTS):
            try:
                result: Result = await group.run.remote(inputs)
                return result
            except RayActorError:
                continue  # Ray starts another, and does not give it this one's requests
            except BackPressureError as error:
                raise OverloadError(
                    f"{group.deployment_name} has too many requests waiting", retry_after_s=_RETRY_AFTER_S
                ) from error
            except RayTaskError as error:
                raise error.cause from error
        raise BackendError(f"{_ATTEMPTS} replicas of {group.deployment_name} died with this request")

    async def __call__(self, request: Request) -> Response:
        """The same over HTTP."""
        try:
            result = await self.run(await _json_object(request))
        except OverloadError as error:
            return _refused(503, str(error), {"Retry-After": f"{error.retry_after_s:.0f}"})
        except CtxError as error:
            return _refused(400 if isinstance(error, InputError) else 500, str(error))
        outputs = {name: array.tolist() for name, array in result.outputs.items()}
        return JSONResponse({"outputs": outputs, "dispatch": [run._asdict() for run in result.dispatch]})


async def _json_object(request: Request) -> Inputs:
    try:
        inputs = await request.json()
    except ValueError as error:
        raise InputError(f"the body is not JSON: {error}") from error
    if not isinstance(inputs, dict):
        raise InputError("the body is not a JSON object of inputs by name")
    return inputs


def _refused(status: int, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"error": message}, status, headers)
