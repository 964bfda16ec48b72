"""What a benchmark of a bundle found: the JSON that `ctx-export bench` writes, and `plan` and `report` read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ctx_export.costs import DEFAULT_LATENCY, AnalyticLatency, Latency, MeasuredLatency
from ctx_runtime.bucket import Tokens
from ctx_runtime.errors import InputError, first_problem
from ctx_runtime.manifest import Activation

Ms = Annotated[float, Field(gt=0, allow_inf_nan=False)]
ByteSize = Annotated[int, Field(ge=0)]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True)


class LatencyRow(_Model):
    """Latency of one row of `length` tokens alone, in milliseconds.

    Attributes:
        bucket: that ran it.
        rounds: how often it ran.
        bare_p50_ms: of a bare ONNX Runtime session over the same graph; None where the bucket runs on another backend.
    """

    length: Tokens
    bucket: str
    rounds: int
    p50_ms: Ms
    p95_ms: Ms
    p99_ms: Ms
    bare_p50_ms: Ms | None


class Throughput(_Model):
    """Inputs of real lengths, all given at once.

    Attributes:
        inputs, tokens: how many.
        together: tokens a second, one call of `run` with all inputs, which the runtime batches.
        one_by_one: tokens a second, a call for each.
        bare: tokens a second, one by one through bare ONNX Runtime sessions; None where a bucket has none.
        padding_share: of the tokens that `together` runs.
    """

    inputs: int
    tokens: int
    together: float
    one_by_one: float
    bare: float | None
    padding_share: float


class Opening(_Model):
    """A fresh process that opens the bundle and runs the longest input of every bucket.

    Attributes:
        verify_ms: until the bundle is verified.
        first_runs_ms: until every bucket has run once, beyond that.
        pss_bytes: proportional memory that this added; None where the system does not tell.
        bare_open_ms, bare_pss_bytes: the same runs with a bare ONNX Runtime session a graph; None where a bucket runs
            on another backend.
    """

    verify_ms: Ms
    first_runs_ms: Ms
    pss_bytes: ByteSize | None
    bare_open_ms: Ms | None
    bare_pss_bytes: ByteSize | None


class Sizes(_Model):
    """What the bundle takes.

    Attributes:
        weights_bytes: shared by all buckets.
        bucket_bytes: graphs and golden vectors of a bucket, on average.
        activation: intermediate results of a row.
    """

    weights_bytes: ByteSize
    bucket_bytes: ByteSize
    activation: Activation


class BenchReport(_Model):
    """A benchmark of one bundle on one machine."""

    bundle: str
    processor: str
    versions: dict[str, str]
    threads: int
    latency: Annotated[tuple[LatencyRow, ...], Field(min_length=1)]
    throughput: Throughput | None
    opening: Opening
    sizes: Sizes

    def measured_latency(self) -> MeasuredLatency:
        """The medians, as the planner takes them.

        Raises:
            InputError: fewer than two lengths were measured.
        """
        return MeasuredLatency(tuple(row.length for row in self.latency), tuple(row.p50_ms for row in self.latency))


def read_bench(path: Path) -> BenchReport:
    """Read what `ctx-export bench --json` printed.

    Raises:
        InputError: the file can't be read or is something else; the message says where.
    """
    try:
        return BenchReport.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InputError(
            f"{path}: {error.strerror}", hint="write it with ctx-export bench BUNDLE -o bench.json"
        ) from error
    except ValidationError as error:
        raise InputError(
            f"{path}: {first_problem(error)}",
            hint="expected what ctx-export bench BUNDLE -o writes",
        ) from None


def read_latency(cost: str | None) -> tuple[Latency, BenchReport | None]:
    """The latency that `--cost` names, and the benchmark that it comes from.

    Args:
        cost: the file of a benchmark, or three numbers with commas between: fixed, linear, quadratic, in milliseconds;
            None: that of a small encoder.

    Raises:
        InputError: neither.
    """
    if cost is None:
        return DEFAULT_LATENCY, None
    numbers = cost.split(",")
    if len(numbers) != 3:
        bench = read_bench(Path(cost))
        return bench.measured_latency(), bench
    try:
        return AnalyticLatency(*map(float, numbers)), None
    except ValueError:
        raise InputError(f"{cost!r} is not three numbers", hint="--cost FIXED,LINEAR,QUADRATIC, milliseconds") from None


def write_bench(report: BenchReport, path: Path) -> None:
    """Write what `read_bench` reads.

    Raises:
        InputError: the file can't be written.
    """
    try:
        path.write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path} can't be written: {error.strerror}") from error
