"""What every endpoint works with, and how it runs rows."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from fastapi import Depends, Request
from starlette.concurrency import run_in_threadpool

from ctx_runtime.errors import InputError
from ctx_runtime.results import Result
from ctx_runtime.runtime import Inputs, Runtime
from ctx_runtime.serving.admission import Gate
from ctx_runtime.serving.metrics import Metrics
from ctx_runtime.serving.slots import Slots
from ctx_runtime.text import Tokenizer


@dataclass(frozen=True)
class Service:
    """One served bundle.

    Attributes:
        runtime: runs it.
        tokenizer: of the bundle.
        gate: whether the server is ready.
        metrics: what it counts.
        slots: turns to generate.
        timeout_s: how long a request may wait until it begins to run.
    """

    runtime: Runtime
    tokenizer: Tokenizer
    gate: Gate
    metrics: Metrics
    slots: Slots
    timeout_s: float

    @property
    def name(self) -> str:
        """The model's name in every protocol: the bundle's."""
        return self.runtime.bundle.manifest.name

    async def run(self, inputs: Sequence[Inputs], timeout_s: float | None = None) -> list[Result]:
        """The results of `inputs`, through the scheduler; those that have not begun when one fails are given up.

        Raises: as `Runtime.submit` and its futures.
        """
        futures: list[Future[Result]] = []
        try:
            await run_in_threadpool(self._submit, inputs, min(timeout_s or self.timeout_s, self.timeout_s), futures)
            return await asyncio.gather(*map(asyncio.wrap_future, futures))
        finally:
            for future in futures:
                future.cancel()

    def _submit(self, inputs: Sequence[Inputs], timeout_s: float, futures: list[Future[Result]]) -> None:
        for one in inputs:
            self._check_ids(one)
            futures.append(self.runtime.submit(one, timeout_s=timeout_s))

    def _check_ids(self, inputs: Inputs) -> None:
        """Raise InputError if a token id is none of the tokenizer's: it would fail its whole batch."""
        manifest = self.runtime.bundle.manifest
        tokens = next((spec.name for spec in manifest.inputs if spec.role == "tokens"), None)
        if manifest.tokenizer is None or tokens is None or tokens not in inputs:
            return
        ids = np.asarray(inputs[tokens])
        if ids.size and ids.max() >= self.tokenizer.size:
            raise InputError(f"token ids are from 0 to {self.tokenizer.size - 1}, got {ids.max()}")


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


Serving = Annotated[Service, Depends(_service)]
"""The service of the server that a request came to."""
