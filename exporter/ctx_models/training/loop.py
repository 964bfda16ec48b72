"""The training loop: epochs of batches, snapshots to resume from, an evaluation after each epoch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from ctx_models.data import Dataset, collate, plan_batches
from ctx_models.errors import ModelError
from ctx_models.heads import TaskModel
from ctx_models.training.adapters import Adapters
from ctx_models.training.config import TrainingConfig
from ctx_models.training.events import EpochDone, OnEvent, Resumed, StepDone
from ctx_models.training.objective import accumulate_gradients
from ctx_models.training.optimising import learning_rate, make_optimizer, update
from ctx_models.training.sandwich import draw
from ctx_models.training.snapshot import Progress, Snapshots

Evaluate = Callable[[TaskModel], Mapping[str, float]]


def train(
    model: TaskModel,
    data: Dataset,
    config: TrainingConfig,
    *,
    snapshots: Path | None = None,
    resume: bool = False,
    evaluate: Evaluate | None = None,
    on_event: OnEvent = lambda event: None,
) -> None:
    """Train `model` in place, on the device that it is on; it ends in eval mode, with its adapters merged.

    A run that was killed and resumed ends with the same parameters as one that was not: bit for bit on a CPU with as
    many threads.

    Args:
        model: of the task and the labels of `data`.
        data: what it learns from.
        config: how.
        snapshots: a folder for snapshots, to remove once the result is safe; None: the run can't be resumed.
        resume: go on from the newest snapshot.
        evaluate: run after each epoch, the model in eval mode; its figures go into `EpochDone`.
        on_event: called after each step and epoch.

    Raises:
        ModelError: data of another task or other labels; a sub-network that the model doesn't have; training diverges;
            nothing to resume, or a run of other settings; `resume` without `snapshots`.
    """
    run = _start(model, data, config, snapshots, resume, on_event)
    while run.progress.step < run.steps:
        _run_epoch(run, evaluate, on_event)
    if run.adapters:
        run.adapters.merge()
    model.eval()


@dataclass(eq=False)
class _Run:
    """A run on its way."""

    model: TaskModel
    data: Dataset
    config: TrainingConfig
    optimizer: torch.optim.AdamW
    adapters: Adapters | None
    snapshots: Snapshots | None
    steps_per_epoch: int
    progress: Progress

    @property
    def steps(self) -> int:
        """Steps of all epochs."""
        return self.config.epochs * self.steps_per_epoch

    def save(self) -> None:
        """Write a snapshot, if there is a place for it."""
        if self.snapshots:
            self.snapshots.save(self.progress, self.model, self.optimizer, self.adapters)


def _start(
    model: TaskModel,
    data: Dataset,
    config: TrainingConfig,
    folder: Path | None,
    resume: bool,
    on_event: OnEvent,
) -> _Run:
    """A run at its beginning, or where its newest snapshot left it."""
    _check(model, data, config)
    identity = config.to_json() | {"model": model.config.to_json(), "task": model.task, "data": data.sha256}
    snapshots = Snapshots(folder, identity) if folder else None
    steps_per_epoch = len(plan_batches(data.features, config.batch_tokens))
    torch.manual_seed(config.seed)
    adapters = Adapters(model, config, config.epochs * steps_per_epoch) if config.method != "full" else None
    run = _Run(model, data, config, make_optimizer(model, config), adapters, snapshots, steps_per_epoch, Progress())
    if resume:
        if snapshots is None:
            raise ModelError("a run without a folder for snapshots can't be resumed", hint="name the folder")
        run.progress = snapshots.load(model, run.optimizer, adapters)
        on_event(Resumed(run.progress.step, run.steps))
    elif snapshots:
        snapshots.check_new()
    return run


def _check(model: TaskModel, data: Dataset, config: TrainingConfig) -> None:
    if (model.task, model.labels) != (data.task, data.labels):
        raise ModelError(
            f"the model is for {model.task} with the labels {list(model.labels)}, the data for {data.task} with "
            f"{list(data.labels)}",
            hint="encode the data with the labels of the model",
        )
    for part in config.sandwich:
        part.resolve(model.config)


def _run_epoch(run: _Run, evaluate: Evaluate | None, on_event: OnEvent) -> None:
    """The rest of the current epoch, its evaluation and its snapshot."""
    epoch, done = divmod(run.progress.step, run.steps_per_epoch)
    batches = plan_batches(run.data.features, run.config.batch_tokens, seed=run.config.seed * run.config.epochs + epoch)
    run.model.train()
    for index in range(done, len(batches)):
        on_event(_run_step(run, batches[index]))
        if run.progress.step % run.config.checkpoint_every == 0 and index + 1 < len(batches):
            run.save()
    run.model.eval()
    quality = evaluate(run.model) if evaluate else {}
    on_event(EpochDone(epoch + 1, run.progress.step, run.progress.epoch_loss / run.steps_per_epoch, quality))
    run.progress = Progress(run.progress.step)
    run.save()


def _run_step(run: _Run, indices: list[int]) -> StepDone:
    """One step of the optimizer on one batch."""
    config, step = run.config, run.progress.step
    device = next(run.model.parameters()).device
    batch = collate(run.data, indices).to(device)
    parts = draw(config, run.model.config, step)
    losses = accumulate_gradients(run.model, batch, parts, distill=config.distill, precision=config.precision)
    if run.adapters:
        run.adapters.add_penalty()
    lr = learning_rate(config, step, run.steps)
    update(run.model, run.optimizer, lr=lr, clip=config.clip)
    if run.adapters:
        run.adapters.allocate(step + 1)
    run.optimizer.zero_grad()
    run.progress = Progress(step + 1, run.progress.epoch_loss + losses.full)
    tokens = sum(len(text) for index in indices for text in run.data.features[index].texts)
    epoch = step // run.steps_per_epoch + 1
    return StepDone(step + 1, run.steps, epoch, losses.full, losses.parts, lr, tokens)
