"""A corpus through a bundle with Ray Data: a pool of processes, each of which batches its share by length.

A process queues all rows that it is given at once with the runtime's scheduler. That forms batches of like length, on a
CPU of equal length, so there is little or no padding and the corpus needs no sorting.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import ray.data
from numpy.typing import ArrayLike

from ctx_runtime.bundle import Bundle
from ctx_runtime.errors import InputError
from ctx_runtime.manifest import Manifest, OutputSpec
from ctx_runtime.resource_profile import BackendName
from ctx_runtime.results import Result
from ctx_runtime.runtime import Inputs, Runtime
from ctx_runtime.scheduling.settings import Scheduling
from ctx_runtime.text import Tokenizer


def embed_dataset(
    dataset: ray.data.Dataset,
    bundle: str | Path,
    *,
    column: str = "text",
    outputs: Sequence[str] | None = None,
    workers: int | tuple[int, int] = 1,
    rows: int = 1024,
    backends: Sequence[BackendName] | None = None,
    num_cpus: float = 1,
    num_gpus: float = 0,
) -> ray.data.Dataset:
    """The dataset with a column more for each output; like all of Ray Data, nothing runs before it is read.

    Args:
        dataset: its `column` holds texts, or the token ids of each row.
        bundle: its folder, which every machine has at the same place.
        column: what to run.
        outputs: which to keep; by default those that are one vector a row. Token outputs are arrays
            `(length, …)` of a length of their own.
        workers: processes with a runtime each, or the fewest and the most that Ray may start.
        rows: that a worker gets at once: more rows make better batches and take more memory.
        backends: in order of preference, for every bucket; by default what each bucket says.
        num_cpus: cores of a worker.
        num_gpus: GPUs of a worker.

    Raises:
        BundleError: the folder is not a sound bundle.
        InputError: a bundle that takes no tokens or generates text, an output that it does not have, or none that is
            one vector a row. What a row may be refused for, such as a text without a tokenizer, ends the job.
    """
    manifest = Bundle.open(bundle).manifest
    if manifest.decoder is not None or not any(spec.role == "tokens" for spec in manifest.inputs):
        raise InputError(f"{manifest.name} does not embed tokens", hint="give the bundle of an encoder")
    fewest, most = (workers, workers) if isinstance(workers, int) else workers
    return dataset.map_batches(
        _Worker,
        fn_constructor_args=(str(Path(bundle).absolute()), column, _kept(manifest, outputs), rows, backends),
        batch_format="numpy",
        batch_size=rows,
        compute=ray.data.ActorPoolStrategy(min_size=fewest, max_size=most),
        num_cpus=num_cpus,
        num_gpus=num_gpus,
    )


def _kept(manifest: Manifest, outputs: Sequence[str] | None) -> list[OutputSpec]:
    """The outputs that become columns."""
    if outputs is None:
        kept = [spec for spec in manifest.outputs if spec.length_axis is None]
        if not kept:
            raise InputError(f"{manifest.name} has no output that is one vector a row", hint="name some with outputs")
        return kept
    by_name = {spec.name: spec for spec in manifest.outputs}
    if unknown := sorted(set(outputs) - by_name.keys()):
        raise InputError(f"{manifest.name} has no output {unknown[0]!r}", hint=f"it has {', '.join(by_name)}")
    return [by_name[name] for name in outputs]


class _Worker:
    """A runtime in a process of Ray Data's pool."""

    def __init__(
        self,
        bundle: str,
        column: str,
        outputs: Sequence[OutputSpec],
        rows: int,
        backends: Sequence[BackendName] | None,
    ) -> None:
        self._runtime = Runtime.open(bundle, backends=backends, scheduling=Scheduling(max_queue=rows))
        self._tokenizer = Tokenizer(self._runtime.bundle)
        self._tokens = next(spec.name for spec in self._runtime.bundle.manifest.inputs if spec.role == "tokens")
        self._column = column
        self._outputs = outputs

    def __call__(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        futures = [self._runtime.submit(self._inputs(value)) for value in batch[self._column]]
        results = [future.result() for future in futures]
        return {**batch, **{spec.name: _column(spec, results) for spec in self._outputs}}

    def _inputs(self, value: str | ArrayLike) -> Inputs:
        return self._tokenizer.encode(value) if isinstance(value, str) else {self._tokens: value}


def _column(spec: OutputSpec, results: Sequence[Result]) -> np.ndarray:
    arrays = [result.outputs[spec.name] for result in results]
    if spec.length_axis is None:
        return np.stack(arrays)
    column = np.empty(len(arrays), object)
    column[:] = arrays
    return column
