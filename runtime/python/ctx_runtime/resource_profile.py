"""Resource profiles: how much of the network runs at which length, how precisely, and on what.

A resource profile is what an engineer writes (`profiles/*.yaml`); `ResourceProfile.resolve()` fills in every default,
and the resolved buckets stand in the bundle's manifest. TensorRT's *optimization profile* is another thing.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, WithJsonSchema, model_validator

from ctx_runtime.bucket import Bucket, LocatedError, Tokens, check_tiling
from ctx_runtime.decoder import DecodingSettings

Precision = Literal["fp32", "fp16", "bf16", "int8", "int4"]
BackendName = Literal[
    "onnxruntime-cpu",
    "onnxruntime-cuda",
    "onnxruntime-tensorrt",
    "onnxruntime-tensorrt-rtx",
    "tensorrt",
    "tensorrt-rtx",
]
OverflowPolicy = Literal["segment", "truncate", "sliding", "error"]
Pooling = Literal["mean", "max", "attention"]
ShareWeights = Literal["mmap", "off"]

_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def parse_bytes(value: object) -> object:
    """Read `512 MiB` as 536870912; anything but a string passes unchanged, for the type check that follows.

    Raises:
        ValueError: a string that is not a number and one of B, KB, MB, GB, KiB, MiB, GiB.
    """
    if not isinstance(value, str):
        return value
    for unit in sorted(_UNITS, key=len, reverse=True):
        number = value.strip().removesuffix(unit)
        if number != value.strip():
            try:
                return int(float(number) * _UNITS[unit])
            except (ValueError, OverflowError):
                break
    raise ValueError(f"expected bytes or a size such as '512 MiB', got {value!r}")


ByteCount = Annotated[int, Field(ge=1, le=1 << 50)]
_SIZE_SCHEMA: dict[str, JsonValue] = {"type": ["integer", "string"], "minimum": 1, "examples": ["512 MiB"]}
Bytes = Annotated[ByteCount, BeforeValidator(parse_bytes), WithJsonSchema(_SIZE_SCHEMA)]
BatchSize = Annotated[int, Field(ge=1, le=4096)]
Threads = Annotated[int, Field(ge=0, le=1024)]
Milliseconds = Annotated[float, Field(gt=0, le=1e9)]
Quality = Annotated[float, Field(ge=-1e9, le=1e9)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class RopeScaling(_Model):
    """How rotary positions are scaled: the larger the factor, the coarser; 1 is the finest."""

    kind: Literal["linear", "ntk", "yarn"]
    factor: Annotated[float, Field(ge=1, le=1024)]


class SubNetwork(_Model):
    """The part of the network that a bucket runs; None means all of it."""

    layers: Annotated[int, Field(ge=1, le=4096)] | None = None
    heads: Annotated[int, Field(ge=1, le=4096)] | None = None
    ffn: Annotated[int, Field(ge=1, le=1 << 20)] | None = None
    position_resolution: RopeScaling | None = None

    def parts(self) -> list[str]:
        """What it is not all of, in words: `["l3", "h6", "yarn2"]`."""
        numbers = (("l", self.layers), ("h", self.heads), ("f", self.ffn))
        parts = [f"{key}{value}" for key, value in numbers if value]
        if self.position_resolution:
            parts.append(f"{self.position_resolution.kind}{self.position_resolution.factor:g}")
        return parts


class BatchRange(_Model):
    """Batch sizes that a bucket must take: `min <= opt <= max`."""

    min: BatchSize = 1
    opt: BatchSize = 1
    max: BatchSize = 8

    @model_validator(mode="after")
    def _check_order(self) -> BatchRange:
        if not self.min <= self.opt <= self.max:
            raise ValueError(f"expected min <= opt <= max, got {self.min}, {self.opt}, {self.max}")
        return self


class BucketSettings(_Model):
    """What a resource profile may say for all its buckets; a bucket may override each.

    Attributes:
        memory_budget: bytes that one run may take.
        time_budget_ms: milliseconds that one row may take, by the latency in the bundle's quality table.
    """

    batch: BatchRange | None = None
    precision: Precision | None = None
    threads: Threads | None = None
    memory_budget: Bytes | None = None
    time_budget_ms: Milliseconds | None = None
    backends: Annotated[tuple[BackendName, ...], Field(min_length=1, strict=False)] | None = None
    subnetwork: SubNetwork | None = None


class BucketEntry(BucketSettings):
    """One bucket of a profile file; only `max_length` is needed."""

    max_length: Tokens
    min_length: Tokens | None = None
    opt_length: Tokens | None = None

    @model_validator(mode="after")
    def _check_order(self) -> BucketEntry:
        lengths = [length for length in (self.min_length, self.opt_length, self.max_length) if length is not None]
        if lengths != sorted(lengths):
            raise ValueError(f"expected min_length <= opt_length <= max_length, got {', '.join(map(str, lengths))}")
        return self


class Overflow(_Model):
    """What happens to an input longer than the largest bucket.

    Attributes:
        policy: cut into segments, cut off (and say so), or refuse; a causal language model can't segment or truncate,
            and alone can let old tokens leave a full cache (`sliding`).
        overlap: tokens that neighbouring segments share.
        fusion: how outputs without a length axis are fused where the model brings no fusion of its own; token outputs
            are always `concat`.
    """

    policy: OverflowPolicy = "segment"
    overlap: Annotated[int, Field(ge=0, le=1 << 20)] = 32
    fusion: Pooling = "mean"


class BucketPlan(Bucket):
    """A bucket with everything of its resource profile resolved."""

    batch: BatchRange
    precision: Precision
    threads: Threads
    memory_budget: ByteCount | None
    time_budget_ms: Milliseconds | None = None
    backends: Annotated[tuple[BackendName, ...], Field(min_length=1, strict=False)]
    subnetwork: SubNetwork | None

    @property
    def network(self) -> str:
        """Names the network and precision that the bucket runs: buckets with the same name share sessions."""
        return self.precision if self.subnetwork is None else "-".join([self.precision, *self.subnetwork.parts()])


PlannedInputs = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=2, max_length=65, strict=False)]


def check_planned_inputs(planned: PlannedInputs | None, buckets: int) -> None:
    """Raise LocatedError unless `planned` counts some inputs, and has a count for each bucket and one more."""
    if planned is not None and (len(planned) != buckets + 1 or not any(planned)):
        raise LocatedError(
            ("planned_inputs",), f"expected {buckets + 1} counts, one for each bucket and one for longer inputs"
        )


class ResourceProfile(BucketSettings):
    """Buckets, and what each runs with.

    The smallest valid profile is ``name: x`` and ``buckets: [{max_length: 16}, {max_length: 48}]``.

    Attributes:
        min_quality: an input runs in the smallest bucket whose sub-network is known to be at least this good at its
            length, in the metric of the model's quality table.
        decoding: how a causal language model generates.
        planned_inputs: the traffic that the buckets were planned for: inputs in each bucket, and last those longer than
            every bucket. What a runtime records is compared with it.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    description: str = ""
    buckets: Annotated[tuple[BucketEntry, ...], Field(min_length=1, max_length=64, strict=False)]
    overflow: Overflow = Overflow()
    session_budget: Bytes | None = None
    share_weights: ShareWeights = "mmap"
    min_quality: Quality | None = None
    decoding: DecodingSettings | None = None
    planned_inputs: PlannedInputs | None = None

    @model_validator(mode="after")
    def _check_buckets(self) -> ResourceProfile:
        plans = self.resolve()
        check_tiling(plans)
        check_planned_inputs(self.planned_inputs, len(plans))
        if self.overflow.policy == "segment" and self.overflow.overlap >= plans[-1].max_length:
            raise LocatedError(
                ("overflow", "overlap"),
                f"{self.overflow.overlap} is not below the length of the largest bucket, {plans[-1].max_length}",
            )
        return self

    def resolve(self) -> tuple[BucketPlan, ...]:
        """The buckets with every default filled in, in ascending order of length."""
        plans: list[BucketPlan] = []
        start = 1
        for index, entry in enumerate(self.buckets):
            opt_length = entry.opt_length or entry.max_length
            if entry.min_length is None and opt_length < start:
                raise LocatedError(
                    ("buckets", index), f"{opt_length} is below {start}, where ctx-{entry.max_length} starts"
                )
            plans.append(
                BucketPlan(
                    min_length=entry.min_length or start,
                    max_length=entry.max_length,
                    opt_length=opt_length,
                    batch=entry.batch or self.batch or BatchRange(),
                    precision=entry.precision or self.precision or "fp32",
                    threads=_first(entry.threads, self.threads, 0),
                    memory_budget=entry.memory_budget or self.memory_budget,
                    time_budget_ms=entry.time_budget_ms or self.time_budget_ms,
                    backends=entry.backends or self.backends or ("onnxruntime-cpu",),
                    subnetwork=entry.subnetwork or self.subnetwork,
                )
            )
            start = entry.max_length + 1
        return tuple(plans)


def _first(*values: int | None) -> int:
    return next(value for value in values if value is not None)
