"""A plan as the resource profile that `ctx-export build` takes."""

from __future__ import annotations

from pathlib import Path

import yaml
from pydantic import ValidationError

from ctx_export.planning import Plan
from ctx_runtime.errors import InputError, first_problem
from ctx_runtime.histogram import LengthHistogram
from ctx_runtime.resource_profile import BucketEntry, ResourceProfile

DEFAULTS = ResourceProfile(name="planned", buckets=(BucketEntry(max_length=64),))
"""What a planned profile takes its settings from, where no other is given."""


def overlap_for(base: ResourceProfile, max_length: int) -> int:
    """The overlap of segments of `max_length` tokens: that of `base`, and at most a quarter of a segment."""
    return min(base.overflow.overlap, max_length // 4)


def planned_profile(
    plan: Plan, name: str, base: ResourceProfile = DEFAULTS, traffic: LengthHistogram | None = None
) -> ResourceProfile:
    """The buckets of `plan` with the settings of `base`.

    A bucket takes the settings of the bucket of `base` that holds its longest length, or of the last one. The profile
    remembers `traffic`, the inputs that were planned for, where they are given.

    Raises:
        InputError: the name is not one that a profile can have.
    """
    entries = []
    for bucket in plan.buckets():
        like = next((entry for entry in base.buckets if entry.max_length >= bucket.max_length), base.buckets[-1])
        opt_length = None if bucket.opt_length == bucket.max_length else bucket.opt_length
        lengths = {"min_length": None, "opt_length": opt_length, "max_length": bucket.max_length}
        entries.append(like.model_copy(update=lengths))
    overlap = overlap_for(base, entries[-1].max_length)
    changes = {
        "name": name,
        "description": _description(plan),
        "buckets": tuple(entries),
        "overflow": base.overflow.model_copy(update={"overlap": overlap}),
        "planned_inputs": None if traffic is None else traffic.by_bucket(plan.chosen.ends),
    }
    try:
        return ResourceProfile.model_validate(base.model_copy(update=changes).model_dump())
    except ValidationError as error:
        raise InputError(first_problem(error), hint="a profile's name is made of letters, digits, . _ -") from None


def write_profile(profile: ResourceProfile, path: Path) -> None:
    """Write `profile` as YAML; what `load_profile` reads is equal to it.

    Raises:
        InputError: the file can't be written, or its name does not end in `.yaml`.
    """
    if path.suffix not in {".yaml", ".yml"}:
        raise InputError(f"{path} does not end in .yaml", hint="ctx-export build reads other names as shipped profiles")
    values = profile.model_dump(mode="json", exclude_defaults=True)
    text = yaml.safe_dump(values, sort_keys=False, default_flow_style=None, allow_unicode=True, width=110)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path} can't be written: {error.strerror}") from error


def _description(plan: Plan) -> str:
    rule = {"exact": "no padding", "batch": f"batches of {plan.cost.model.batch}", "bucket": "fixed shapes"}
    return f"Planned for {plan.inputs} inputs of up to {plan.cost.lengths[-1]} tokens, {rule[plan.cost.model.rule]}"
