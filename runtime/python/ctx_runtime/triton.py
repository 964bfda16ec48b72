"""The router of a Triton model repository: one model that takes any length and answers as `Runtime.run` does.

`ctx-export triton` writes a `model.py` that imports `TritonPythonModel` from here, beside a copy of the bundle. The
Python backend of Triton makes one in each of its processes; their Python needs `pip install 'ctx-export[cpu]'`.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np

from ctx_runtime.errors import CtxError, InputError, MemoryBudgetError, QualityError, TimeBudgetError
from ctx_runtime.results import Result
from ctx_runtime.runtime import Runtime

BUNDLE = "bundle"
"""The bundle's folder, beside the `model.py` of a version of the router."""
DISPATCH = "ctx_dispatch"
"""The output that says how each row was run, `(batch,)` strings of JSON: see `ctx_runtime.results.Dispatch`."""

_OF_ONE_LENGTH = (MemoryBudgetError, TimeBudgetError, QualityError)
"""What a request of one length may meet, while the model can serve others."""


class TritonPythonModel:
    """What Triton's Python backend calls; the names of class and methods are Triton's."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Open the bundle of this version of the model, and a session for each bucket: ready means that it can run.

        Raises:
            CtxError: the bundle is not sound, or no backend of this machine can serve it. The model does not load.
        """
        self._runtime = Runtime.open(Path(args["model_repository"]) / args["model_version"] / BUNDLE)
        manifest = self._runtime.bundle.manifest
        self._names = [spec.name for spec in manifest.inputs]
        for bucket in manifest.buckets:
            with contextlib.suppress(*_OF_ONE_LENGTH):
                self._runtime.explain(bucket.max_length)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Run the requests that the server has queued, each `(batch, length, …)`, in batches of like length.

        A request that the bundle refuses gets the runtime's own words as its error; the others are answered.
        """
        return [_answer(future) for future in [self._submit(request) for request in requests]]

    def finalize(self) -> None:
        """Close the bundle; the server has no more requests."""
        self._runtime.close()

    def _submit(self, request: Any) -> Future[Result]:  # noqa: ANN401 (a type of the server's own)
        """Queue the inputs that a request has: a mask, for example, may be left out."""
        import triton_python_backend_utils as backend  # noqa: PLC0415 (only in the server)

        tensors = {name: backend.get_input_tensor_by_name(request, name) for name in self._names}
        try:
            return self._runtime.submit({name: tensor.as_numpy() for name, tensor in tensors.items() if tensor})
        except CtxError as error:
            refused = Future[Result]()
            refused.set_exception(error)
            return refused


def _answer(future: Future[Result]) -> Any:  # noqa: ANN401
    """The outputs of a request and how it was run, or why it was not."""
    import triton_python_backend_utils as backend  # noqa: PLC0415

    try:
        result = future.result()
    except CtxError as error:
        said = f"{error} ({error.hint})" if error.hint else str(error)
        kind = backend.TritonError.INVALID_ARG if isinstance(error, InputError) else backend.TritonError.INTERNAL
        return backend.InferenceResponse(error=backend.TritonError(said, kind))
    dispatch = np.array([json.dumps(run._asdict()).encode() for run in result.dispatch], object)
    tensors = [backend.Tensor(name, np.ascontiguousarray(array)) for name, array in result.outputs.items()]
    return backend.InferenceResponse([*tensors, backend.Tensor(DISPATCH, dispatch)])
