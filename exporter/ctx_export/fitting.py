"""A resource profile -> the buckets of a build, once it is clear that the model can serve them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ctx_export.sources import Source
from ctx_runtime.errors import BuildError, SourceError
from ctx_runtime.manifest import OutputSpec
from ctx_runtime.resource_profile import BucketPlan, Overflow, ResourceProfile, SubNetwork


@dataclass(frozen=True)
class FittedProfile:
    """What a resource profile comes to for one model.

    Attributes:
        buckets: with their sub-networks in the one form that names them.
        overflow: with the overlap of the model's own fusion, where it has one.
        outputs: the model's, with how each is fused.
        fuses: whether the bundle gets the graphs of the model's own fusion.
        notes: what the model decided and the profile did not say, in words.
    """

    buckets: tuple[BucketPlan, ...]
    overflow: Overflow
    outputs: tuple[OutputSpec, ...]
    fuses: bool
    notes: tuple[str, ...]


def fit_profile(source: Source, profile: ResourceProfile) -> FittedProfile:
    """`profile` for the model of `source`.

    Raises:
        BuildError: the model can't serve it.
    """
    _check_lengths(source, profile, profile.resolve())
    buckets, notes = _with_subnetworks(source, profile)
    _check_quality(source, profile, buckets)
    overflow, fuses = profile.overflow, source.fusion is not None and profile.overflow.policy == "segment"
    if source.fusion is not None and fuses:
        if buckets[-1].max_length != source.fusion.window:
            raise BuildError(
                f"{source.name} fuses segments of {source.fusion.window} tokens, and the longest bucket of profile "
                f"{profile.name} takes {buckets[-1].max_length}",
                hint=f"let the longest bucket end at {source.fusion.window}, or set overflow.policy to truncate",
            )
        overflow = overflow.model_copy(update={"overlap": source.fusion.overlap})
        notes += (f"segments overlap by {source.fusion.overlap} tokens, as the model was made for",)
    pooling = "learned" if fuses else overflow.fusion
    outputs = tuple(
        spec if spec.length_axis is not None else spec.model_copy(update={"fusion": pooling}) for spec in source.outputs
    )
    return FittedProfile(buckets, overflow, outputs, fuses, notes)


def _with_subnetworks(source: Source, profile: ResourceProfile) -> tuple[tuple[BucketPlan, ...], tuple[str, ...]]:
    """The buckets with their sub-networks: the profile's, or those that the model's own policy has."""
    plans, notes = profile.resolve(), tuple[str, ...]()
    by_policy = bool(source.steps) and all(plan.subnetwork is None for plan in plans)
    buckets = []
    for plan in plans:
        try:
            part = _step(source, plan) if by_policy else source.resolve(plan.subnetwork)
        except SourceError as error:
            raise BuildError(f"bucket {plan.name} of profile {profile.name}: {error}", hint=error.hint) from error
        buckets.append(plan.model_copy(update={"subnetwork": part}))
        if by_policy:
            notes += (f"{plan.name} runs {_words(buckets[-1])}, by the length policy of the model",)
    return tuple(buckets), notes


def _step(source: Source, plan: BucketPlan) -> SubNetwork | None:
    """The sub-network that the model wants at the end of a bucket."""
    for longest, part in source.steps:
        if plan.max_length <= longest:
            return part
    raise SourceError(
        f"the length policy of {source.name} ends at {source.steps[-1][0]} tokens",
        hint="take a profile with shorter buckets, or name the sub-networks in it",
    )


def _words(plan: BucketPlan) -> str:
    return plan.network.removeprefix(plan.precision).removeprefix("-") or "the whole network"


def _check_lengths(source: Source, profile: ResourceProfile, buckets: Sequence[BucketPlan]) -> None:
    for plan in buckets:
        if source.max_length is not None and plan.max_length > source.max_length:
            raise BuildError(
                f"bucket {plan.name} of profile {profile.name} is longer than the {source.max_length} positions "
                f"of {source.name}",
                hint="take a profile with shorter buckets: longer inputs run in segments",
            )
    framing = len(source.special_tokens.prefix) + len(source.special_tokens.suffix)
    overlap, longest = profile.overflow.overlap, buckets[-1].max_length
    if source.fusion is None and profile.overflow.policy == "segment" and overlap + framing >= longest:
        raise BuildError(
            f"segments of {longest} tokens leave no room beside {framing} special tokens and an overlap of {overlap}",
            hint="lower overflow.overlap, or set overflow.policy to truncate or error",
        )


def _check_quality(source: Source, profile: ResourceProfile, buckets: Sequence[BucketPlan]) -> None:
    """Refuse a floor of quality and a time budget that nothing is known for."""
    if profile.min_quality is not None and not source.quality:
        raise BuildError(
            f"profile {profile.name} asks for a quality of {profile.min_quality:g}; {source.name} has no table of it",
            hint="measure it with `ctx-export evaluate`, or remove min_quality",
        )
    timed = {record.subnetwork for record in source.quality if record.latency_ms is not None}
    for plan in buckets:
        if plan.time_budget_ms is not None and plan.subnetwork not in timed:
            raise BuildError(
                f"bucket {plan.name} of profile {profile.name} has a time budget, and {source.name} has no latency of "
                f"{_words(plan)}",
                hint="measure it with `ctx-export tune`, or remove time_budget_ms",
            )
