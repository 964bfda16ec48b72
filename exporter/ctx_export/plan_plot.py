"""The picture of a plan: lengths with the boundaries, and the cost of more buckets against other ways to set them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ctx_export.planning import Plan
from ctx_runtime.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BINS = 80
_INK, _PLAN, _POWERS, _STEPS = "#444444", "#0b5fa5", "#c2570c", "#6b7280"


def write_plot(plan: Plan, path: Path) -> None:
    """Write the picture; the ending of `path` says as what: `.png`, `.svg`, `.pdf`.

    Raises:
        MissingExtraError: matplotlib is not installed.
        InputError: the file can't be written, or not as that.
    """
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 (optional)
    except ImportError as error:
        raise MissingExtraError("matplotlib", "plan", purpose="a plot") from error
    figure = Figure(figsize=(9, 7), layout="constrained")
    top, bottom = figure.subplots(2, 1, height_ratios=(3, 2))
    _draw_lengths(top, plan)
    _draw_costs(bottom, plan)
    try:
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} can't be written: {error}", hint="give a name that ends in .png, .svg or .pdf"
        ) from error


def _draw_lengths(axes: Axes, plan: Plan) -> None:
    cost, ends = plan.cost, plan.chosen.ends
    edges = np.linspace(0, ends[-1], _BINS + 1)
    axes.hist(cost.lengths, bins=edges.tolist(), weights=cost.counts, color="#b9c6d3")
    high = axes.get_ylim()[1]
    axes.vlines(ends, 0, high, color=_PLAN, linewidth=1.4, label=f"planned: {', '.join(map(str, ends))}")
    powers = plan.powers_of_two[min(plan.count, len(plan.powers_of_two)) - 1].ends
    axes.plot(
        powers,
        np.full(len(powers), high * 0.96),
        "v",
        color=_POWERS,
        label=f"powers of two: {', '.join(map(str, powers))}",
    )
    steps = plan.fixed_steps[plan.count - 1].ends
    axes.plot(
        steps,
        np.full(len(steps), high * 0.9),
        "|",
        color=_STEPS,
        markersize=9,
        label=f"fixed steps: {', '.join(map(str, steps))}",
    )
    axes.set(xlabel="length in tokens", ylabel="inputs", xlim=(0, ends[-1] * 1.01), ylim=(0, high))
    axes.set_title(f"{plan.inputs:,} inputs in {plan.count} buckets", loc="left", color=_INK)
    axes.legend(edgecolor="none", framealpha=1, loc="center right")
    axes.spines[["top", "right"]].set_visible(False)


def _draw_costs(axes: Axes, plan: Plan) -> None:
    from matplotlib.ticker import LogLocator  # noqa: PLC0415 (optional)

    counts = np.arange(1, len(plan.curve) + 1)
    for label, curve, color, marker in (
        ("planned", plan.curve, _PLAN, "o"),
        ("best powers of two", plan.powers_of_two, _POWERS, "v"),
        ("fixed steps", plan.fixed_steps, _STEPS, "|"),
    ):
        values = [boundaries.total_ms / plan.inputs for boundaries in curve]
        axes.plot(counts[: len(values)], values, color=color, marker=marker, label=label)
    axes.axhline(plan.least_ms / plan.inputs, color=_INK, linestyle=":", label="no padding at all")
    axes.axvline(plan.count, color=_PLAN, linewidth=6, alpha=0.15, label="recommended")
    axes.set(xlabel="buckets", ylabel="ms an input", xticks=counts.tolist(), yscale="log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:.3g}")
    axes.minorticks_off()
    axes.legend(edgecolor="none", framealpha=1, loc="upper right")
    axes.spines[["top", "right"]].set_visible(False)
