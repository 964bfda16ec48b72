"""Plots of what was measured, to a picture or a vector file."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ctx_export.evaluation_job import EvaluationReport
from ctx_export.tuning_job import TuningReport
from ctx_models.extras import load_extra
from ctx_models.tuning import Trial, pareto_front
from ctx_runtime.errors import InputError

_HEADINGS = {"f1": "F1", "accuracy": "accuracy", "mrr": "mean reciprocal rank"}
Axes = Any
"""matplotlib's, which has no types here."""


def plot_quality(report: EvaluationReport, file: Path) -> None:
    """Quality over length, a line for each sub-network; the bar and the effective lengths of a retrieval task.

    Raises:
        InputError: the file's ending is of no format that matplotlib writes, or the file can't be written.
    """
    rows, effective = report.quality.rows, report.effective

    def draw(axes: Axes) -> None:
        for part in dict.fromkeys(row.subnetwork for row in rows):
            own = [row for row in rows if row.subnetwork == part]
            label = f"{part}: effective to {effective[part] or 'no length'}" if part in effective else str(part)
            axes.plot([row.max_length for row in own], [row.value for row in own], marker="o", label=label)
        if report.bar is not None:
            axes.axhline(report.bar, color="grey", linestyle="--", linewidth=1, label=f"bar {report.bar:g}")
        lengths = sorted({row.max_length for row in rows})
        axes.set_xscale("log", base=2)
        axes.set_xticks(lengths, [str(length) for length in lengths], minor=False)
        axes.set_ylim(-0.02, 1.02)
        axes.set(xlabel="input length, tokens (up to)", ylabel=_HEADINGS[rows[0].metric])

    save_figure({"Quality by length": draw}, file)


def save_figure(panels: Mapping[str, Callable[[Axes], None]], file: Path) -> None:
    """Draw titled panels side by side, each with its legend, and write them to `file`.

    Raises:
        InputError: the file's ending is of no format that matplotlib writes, or the file can't be written.
    """
    figures = load_extra("matplotlib.figure", purpose="a plot")
    figure = figures.Figure(figsize=(1 + 5.5 * len(panels), 4.2), layout="constrained")
    for axes, (title, draw) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        draw(axes)
        axes.set_title(title, loc="left")
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    try:
        figure.savefig(file, dpi=120)
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: {error}", hint="name a file that ends in .png, .svg or .pdf") from error


def plot_trials(report: TuningReport, file: Path) -> None:
    """Quality over latency, a panel for each bucket: every trial, the Pareto front, the floor and the choice.

    Raises:
        InputError: the file's ending is of no format that matplotlib writes, or the file can't be written.
    """
    buckets = dict.fromkeys(trial.max_length for trial in report.trials)
    panels = {f"up to {length} tokens": functools.partial(_draw_bucket, report, length) for length in buckets}
    save_figure(panels, file)


def _draw_bucket(report: TuningReport, length: int, axes: Axes) -> None:
    trials = [trial for trial in report.trials if trial.max_length == length]
    front, chosen, floor = pareto_front(trials), report.chosen(length), report.job.floor * trials[0].quality
    axes.scatter(*_points(trials), color="lightgrey", label="trials")
    axes.plot(*_points(front), drawstyle="steps-post", marker="o", markersize=4, label="Pareto front")
    axes.scatter(
        *_points(trials[:1]), marker="s", s=60, facecolors="none", edgecolors="black", zorder=3, label="full network"
    )
    if chosen is not None:
        axes.scatter(
            *_points([chosen]), marker="*", s=160, color="tab:red", zorder=4, label=f"chosen: {chosen.subnetwork}"
        )
    axes.axhline(floor, color="grey", linestyle="--", linewidth=1, label=f"floor {floor:.3f}")
    axes.set(xlabel="latency, ms", ylabel=f"quality ({_HEADINGS[report.quality.rows[0].metric]})")


def _points(trials: Sequence[Trial]) -> tuple[list[float], list[float]]:
    return [trial.latency_ms for trial in trials], [trial.quality for trial in trials]
