"""Which sub-network for which length: a search for quality against measured latency.

Each bucket of lengths is a search of its own, by Optuna's multi-objective TPE (Ozaki et al., "Multiobjective
Tree-Structured Parzen Estimator", 2022), kept in one SQLite file, from which it can go on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from ctx_models.config import AdaptiveConfig
from ctx_models.data import Dataset
from ctx_models.errors import ModelError
from ctx_models.evaluation import evaluate
from ctx_models.extras import load_extra
from ctx_models.heads import TaskModel
from ctx_models.subnetwork import LengthPolicy, SubNetwork

_WIDTHS = 4
"""Widths of the feed-forward networks that are tried."""


class Latency(Protocol):
    """Milliseconds of one input of `length` tokens through a sub-network, in segments of `segment` tokens."""

    def __call__(self, subnetwork: SubNetwork, length: int, segment: int) -> float:
        """Measure it; `segment` is `length` for an input that runs in one piece."""


@dataclass(frozen=True)
class SearchSpace:
    """What is tried.

    Attributes:
        layers: numbers of layers.
        heads: numbers of heads.
        ffn: inner units of the feed-forward networks.
        resolutions: of rotary positions, as `yarn4`; the empty text is that of training.
    """

    layers: tuple[int, ...]
    heads: tuple[int, ...]
    ffn: tuple[int, ...]
    resolutions: tuple[str, ...] = ("",)

    @classmethod
    def of(cls, config: AdaptiveConfig, known: Sequence[SubNetwork] = ()) -> SearchSpace:
        """All numbers of layers and heads, four widths, each scaling by two if positions are rotary; and `known`."""
        widths = {max(1, config.ffn_size * part // _WIDTHS) for part in range(1, _WIDTHS + 1)}
        scalings = ("", "linear2", "ntk2", "yarn2") if config.positions == "rotary" else ("",)
        return cls(
            layers=tuple(range(1, config.num_layers + 1)),
            heads=tuple(range(1, config.num_heads + 1)),
            ffn=tuple(sorted(widths | {part.ffn for part in known if part.ffn})),
            resolutions=tuple(dict.fromkeys([*scalings, *map(_resolution, known)])),
        )


@dataclass(frozen=True)
class Trial:
    """One sub-network at one bucket.

    Attributes:
        max_length: of the bucket, in tokens.
        subnetwork: what ran.
        segment: tokens of the segments in which it ran; `max_length`: in one piece.
        quality: on the bucket's examples, 0..1; see `QualityRow.value`.
        latency_ms: of an input of `max_length` tokens.
    """

    max_length: int
    subnetwork: SubNetwork
    segment: int
    quality: float
    latency_ms: float


@dataclass(frozen=True)
class Search:
    """How a search is run.

    Attributes:
        trials: of each bucket, earlier ones included; the full network is the first.
        examples: of each bucket that quality is measured on, drawn by the seed.
        seed: of the search and of the examples.
        storage: the SQLite file; made if it is not there.
        identity: of the model, the data and the way latency is measured: a file of another one is refused.
    """

    trials: int
    examples: int
    seed: int
    storage: Path
    identity: str


OnTrial = Callable[[int, int], None]
"""Told `(done, total)` trials of all buckets."""


def tune(
    model: TaskModel,
    data: Dataset,
    *,
    edges: Sequence[int],
    space: SearchSpace,
    latency: Latency,
    search: Search,
    known: Sequence[SubNetwork] = (),
    on_trial: OnTrial | None = None,
) -> list[Trial]:
    """Search each bucket; all trials so far, by bucket.

    Args:
        model: an encoder; those with segments are also tried in segments that end at a shorter edge.
        data: labelled for the model's task.
        edges: the last lengths of the buckets, ascending; the model's segment length is added to shorter ones.
        space: what is tried.
        latency: how it is measured.
        search: how long, and where it is kept.
        known: sub-networks of `space` that are tried right after the full one, such as those that were trained.
        on_trial: told after each trial.

    Raises:
        ModelError: edges that do not ascend or that the model does not take, a bucket without examples, storage of
            another search, or optuna is missing.
    """
    edges = with_segment(edges, model.config)
    found: list[Trial] = []
    for index, (start, end) in enumerate(zip([1, *(edge + 1 for edge in edges)], edges, strict=False)):
        examples = _draw(data, start, end, search)
        study = _open(search, f"{start}-{end}", [_params(part, model.config, end) for part in (SubNetwork(), *known)])

        def objective(trial: Any, *, end: int = end, examples: Dataset = examples) -> tuple[float, float]:  # noqa: ANN401
            return _run(trial, model, examples, end, _segments(model.config, edges, end), space, latency)

        while (done := len(_finished(study))) < search.trials:
            study.optimize(objective, n_trials=1)
            if on_trial is not None:
                on_trial(index * search.trials + done + 1, len(edges) * search.trials)
        found += [_read(trial, model.config, end) for trial in _finished(study)]
    return found


def with_segment(edges: Sequence[int], config: AdaptiveConfig) -> tuple[int, ...]:
    """The edges with the model's segment length among them, where they go beyond it.

    Raises:
        ModelError: they do not ascend, or go beyond what a model without segments takes.
    """
    if not edges or edges[0] < 1 or any(later <= earlier for earlier, later in itertools.pairwise(edges)):
        raise ModelError(f"the edges of length buckets ascend from 1, not {', '.join(map(str, edges)) or 'nothing'}")
    if config.segment is None and edges[-1] > config.max_length:
        raise ModelError(
            f"a bucket of {edges[-1]} tokens is longer than the model takes, {config.max_length}",
            hint="longer inputs run in segments: leave the edge out",
        )
    own = {config.segment.length} if config.segment and config.segment.length < edges[-1] else set()
    return tuple(sorted({*edges, *own}))


def pareto_front(trials: Sequence[Trial]) -> list[Trial]:
    """The trials of one bucket that no other beats in both quality and latency, fastest first."""
    front: list[Trial] = []
    for trial in sorted(trials, key=lambda trial: (trial.latency_ms, -trial.quality)):
        if not front or trial.quality > front[-1].quality:
            front.append(trial)
    return front


def choose(trials: Sequence[Trial], *, floor: float) -> LengthPolicy:
    """The fastest sub-network of each bucket whose quality is at least `floor` times that of the full network.

    The longest bucket decides how long segments are. Shorter buckets up to that length run in one piece; inputs longer
    than it run in segments through the network of the last bucket, which is therefore that of the longest inputs.

    Args:
        trials: of every bucket, the full network first.
        floor: 0..1.
    """
    by_bucket: dict[int, list[Trial]] = {}
    for trial in trials:
        by_bucket.setdefault(trial.max_length, []).append(trial)
    longest = _fastest(by_bucket[max(by_bucket)], floor)
    steps = [
        (length, _fastest([trial for trial in own if trial.segment == length], floor, full=own[0]).subnetwork)
        for length, own in sorted(by_bucket.items())
        if length < longest.segment
    ]
    return LengthPolicy((*steps, (longest.segment, longest.subnetwork)))


def torch_latency(model: TaskModel, *, repeats: int = 5, seed: int = 0) -> Latency:
    """Latency of PyTorch on the device and the threads of the moment: the median of `repeats` runs after one more."""

    def measure(subnetwork: SubNetwork, length: int, segment: int) -> float:
        device = next(model.parameters()).device
        generator = torch.Generator().manual_seed(seed)
        ids = torch.randint(model.config.vocab_size, (1, length), generator=generator).to(device)
        seconds = []
        with in_segments(model, segment), torch.inference_mode():
            for _ in range(repeats + 1):
                started = time.perf_counter()
                next(iter(model(ids, subnetwork=subnetwork).values())).cpu()
                seconds.append(time.perf_counter() - started)
        return statistics.median(seconds[1:]) * 1000

    return measure


@contextlib.contextmanager
def in_segments(model: TaskModel, length: int) -> Iterator[None]:
    """Let a model with segments cut inputs into segments of `length` tokens; one without stays as it is."""
    own = model.backbone.config
    if own.segment:
        model.backbone.config = dataclasses.replace(own, segment=dataclasses.replace(own.segment, length=length))
    try:
        yield
    finally:
        model.backbone.config = own


def _fastest(trials: Sequence[Trial], floor: float, full: Trial | None = None) -> Trial:
    needed = floor * (full or trials[0]).quality
    return min((trial for trial in trials if trial.quality >= needed), key=lambda trial: trial.latency_ms)


def _draw(data: Dataset, start: int, end: int, search: Search) -> Dataset:
    """At most `search.examples` of `start..end` tokens."""
    inside = [example for example in data.features if start <= example.length <= end]
    if not inside:
        raise ModelError(f"there is no example of {start}..{end} tokens", hint="give other edges, or more examples")
    chance = random.Random(search.seed)  # noqa: S311 (no secret)
    drawn = chance.sample(inside, min(search.examples, len(inside)))
    return dataclasses.replace(data, features=tuple(drawn))


def _params(part: SubNetwork, config: AdaptiveConfig, end: int) -> dict[str, Any]:
    """The parameters of a sub-network, in segments as long as in training."""
    whole = part.resolve(config)
    segment = min(config.segment.length, end) if config.segment else end
    sizes = {"layers": whole.layers, "heads": whole.heads, "ffn": whole.ffn}
    return sizes | {"resolution": _resolution(part), "segment": segment}


def _resolution(part: SubNetwork) -> str:
    """The scaling of positions as text, empty for that of training."""
    return str(SubNetwork(position_resolution=part.position_resolution)) if part.position_resolution else ""


def _segments(config: AdaptiveConfig, edges: Sequence[int], end: int) -> list[int]:
    """Segment lengths that a bucket is tried with."""
    if config.segment is None:
        return [end]
    shortest = config.segment.prefix + config.segment.suffix + config.segment.overlap
    return [edge for edge in edges if shortest < edge <= min(end, config.max_length)]


def _open(search: Search, name: str, first: Sequence[dict[str, Any]]) -> Any:  # noqa: ANN401
    """The study of a bucket, new or from the storage; a new one tries `first` before anything else."""
    optuna, sql = load_extra("optuna", purpose="tuning"), load_extra("sqlalchemy.exc", purpose="tuning")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    where = {"study_name": name, "storage": f"sqlite:///{search.storage}"}
    create = functools.partial(optuna.create_study, **where, directions=["maximize", "minimize"], load_if_exists=True)
    try:
        study = create()
    except sql.SQLAlchemyError as error:
        raise ModelError(f"{search.storage} can't be used as storage: {error.__cause__ or error}") from error
    if study.user_attrs.get("identity", search.identity) != search.identity:
        raise ModelError(
            f"{search.storage} holds the search of another model, data or runtime", hint="give another --storage"
        )
    done = len(_finished(study))
    if not done:  # what a killed search has queued would come first
        optuna.delete_study(**where)
        study = create()
        for params in first:
            study.enqueue_trial(params)
    study.set_user_attr("identity", search.identity)
    study.sampler = optuna.samplers.TPESampler(seed=search.seed + done)
    return study


def _finished(study: Any) -> list[Any]:  # noqa: ANN401
    return [trial for trial in study.get_trials(deepcopy=False) if trial.values is not None]


def _run(
    trial: Any,  # noqa: ANN401
    model: TaskModel,
    examples: Dataset,
    end: int,
    segments: Sequence[int],
    space: SearchSpace,
    latency: Latency,
) -> tuple[float, float]:
    """Quality and latency of what the sampler suggests; what was measured before is not measured again."""
    trial.suggest_categorical("layers", space.layers)
    trial.suggest_categorical("heads", space.heads)
    trial.suggest_categorical("ffn", space.ffn)
    trial.suggest_categorical("resolution", space.resolutions)
    trial.suggest_categorical("segment", segments)
    for earlier in _finished(trial.study):
        if earlier.params == trial.params:
            return earlier.values[0], earlier.values[1]
    subnetwork, segment = _subnetwork(trial.params, model.config), trial.params["segment"]
    with in_segments(model, segment):
        (row,) = evaluate(model, examples, subnetworks=(subnetwork,)).overall
    return row.value, latency(subnetwork, end, segment)


def _read(trial: Any, config: AdaptiveConfig, end: int) -> Trial:  # noqa: ANN401
    return Trial(end, _subnetwork(trial.params, config), trial.params["segment"], *trial.values)


def _subnetwork(params: dict[str, Any], config: AdaptiveConfig) -> SubNetwork:
    """The sub-network of a trial's parameters, None for all of something."""
    whole = _params(SubNetwork(), config, 1)
    sizes = {name: None if params[name] == whole[name] else params[name] for name in ("layers", "heads", "ffn")}
    resolution = SubNetwork.parse(params["resolution"] or "full").position_resolution
    return SubNetwork(**sizes, position_resolution=resolution)
