"""`manifest.json`: everything that a reader needs to know of a bundle. The writer and the reader use these classes.

The rules that a sound bundle follows stand in `runtime/FORMAT.md`.
"""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ctx_runtime.bucket import Tokens, check_tiling
from ctx_runtime.decoder import DecoderRecord, StepTensor
from ctx_runtime.resource_profile import (
    BackendName,
    BucketPlan,
    Milliseconds,
    Overflow,
    PlannedInputs,
    Quality,
    ShareWeights,
    SubNetwork,
    check_planned_inputs,
)

FORMAT = 1
"""The bundle format that this code writes, and the newest that it reads."""

Fusion = Literal["concat", "mean", "max", "attention", "learned"]
"""How the outputs of segments become one: along the length axis, pooled, or by the model's own fusion."""
DType = Literal["float32", "float16", "int64", "int32", "bool"]
State = Literal["hidden", "summary", "summaries", "contexts", "context"]
"""What the graphs of a fusion pass on."""
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:/-]{1,256}$")]
Path = Annotated[str, Field(min_length=1, max_length=512)]
Dim = Annotated[int, Field(ge=1)] | Literal["batch", "length"]
Framing = Annotated[int, Field(ge=0, le=64)]
Shape = Annotated[tuple[Dim, ...], Field(min_length=1, max_length=8, strict=False)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class TensorSpec(_Model):
    """Name, dtype and symbolic shape of an input or output, e.g. `("batch", "length", 384)`."""

    name: Name
    dtype: DType
    shape: Shape

    @property
    def length_axis(self) -> int | None:
        """The axis that grows with the input, None for an output that is one row for the whole input."""
        return self.shape.index("length") if "length" in self.shape else None


GraphTensor = TensorSpec | StepTensor
"""An input or output of a graph."""


class InputSpec(TensorSpec):
    """An input; `pad` is the value that fills a row up to the longest of its batch.

    Attributes:
        role: `tokens` are the ids whose special tokens frame every segment; `mask` is 1 on real tokens and 0 on
            padding, made by the runtime where the caller gives none; `segment-ids` default to zeros; `data` is
            anything else and must be given.
    """

    pad: int | float
    role: Literal["tokens", "mask", "segment-ids", "data"] = "data"


class OutputSpec(TensorSpec):
    """An output; `fusion` joins those of segments: `concat` along the length axis, else a pooling or `learned`."""

    fusion: Fusion
    normalized: bool = False
    """The rows have unit length; a fused row is brought back to it."""


class Tolerance(_Model):
    """What counts as the same answer: `|a - b| <= max_abs` elementwise, and cosine of the flattened rows."""

    max_abs: Annotated[float, Field(gt=0)]
    min_cosine: Annotated[float, Field(ge=-1, le=1)]


class Activation(_Model):
    """Bytes of intermediate results that one row of `n` tokens needs: `per_token * n + per_token_pair * n * n`."""

    per_token: Annotated[int, Field(ge=0)] = 0
    per_token_pair: Annotated[int, Field(ge=0)] = 0

    def bytes_for(self, batch: int, length: int) -> int:
        """The bytes for `batch` rows of `length` tokens."""
        return batch * length * (self.per_token + self.per_token_pair * length)


class BucketRecord(BucketPlan):
    """A bucket of a bundle: its resolved plan and its files.

    Attributes:
        graph: takes every input, the mask too: for batches with padding.
        unmasked_graph: the same network without the mask input, for rows without padding; None where the model
            has no mask.
        tolerance: of this bucket's precision against PyTorch's float32.
        golden: inputs and expected outputs, `parity/ctx-128.npz`.
        activation: what a row needs in the graph that runs it alone: the mask-free one, if there is one.
        masked_activation: what a row needs in `graph`.
    """

    graph: Path
    unmasked_graph: Path | None
    tolerance: Tolerance
    golden: Path | None
    activation: Activation = Activation()
    masked_activation: Activation = Activation()


class FusionRecord(_Model):
    """The graphs that run a row longer than every bucket, in segments of the longest bucket's tokens.

    Attributes:
        segment: the model's inputs without the mask -> `summary` and, where there is a `finish`, `hidden`.
        fuse: the `summaries` of all segments of a row -> their `contexts` where there is a `finish`, and every output
            without a length.
        finish: `hidden` and `context` of one segment -> the outputs with a length; None where there is none.
        hidden_size: numbers of one state.
        summaries: states that stand for one segment.
        prefix: tokens at the beginning of a row that frame each of its segments, special or not.
        suffix: those at its end.
        golden: rows longer than every bucket and their expected outputs, `parity/fusion.npz`.
    """

    segment: Path
    fuse: Path
    finish: Path | None
    hidden_size: Annotated[int, Field(ge=1)]
    summaries: Annotated[int, Field(ge=1)]
    prefix: Framing
    suffix: Framing
    golden: Path | None

    def state(self, name: State) -> TensorSpec:
        """What the graphs pass on: the states of each token, of one segment, or of all segments of a row."""
        rows: dict[str, tuple[Dim, ...]] = {
            "hidden": ("length",),
            "summary": (self.summaries,),
            "summaries": ("length", self.summaries),
            "contexts": ("length", self.summaries),
            "context": (self.summaries,),
        }
        return TensorSpec(name=name, dtype="float32", shape=("batch", *rows[name], self.hidden_size))


class QualityRecord(_Model):
    """How good a sub-network is on inputs of `min_length..max_length` tokens; higher is better.

    Attributes:
        subnetwork: as buckets name it; None: all of the network.
        metric: what `value` is: `f1`, `accuracy`, …
        loss: the mean loss.
        examples: how many inputs were measured.
        latency_ms: milliseconds of one row of `max_length` tokens, where they were measured.
    """

    min_length: Tokens
    max_length: Tokens
    subnetwork: SubNetwork | None
    metric: Name
    value: Quality
    loss: float | None
    examples: Annotated[int, Field(ge=1)]
    latency_ms: Milliseconds | None

    @property
    def network(self) -> str:
        """The sub-network in words, `l3-h6`; `full` for all of it."""
        return "full" if self.subnetwork is None else "-".join(self.subnetwork.parts()) or "full"

    @model_validator(mode="after")
    def _check_order(self) -> QualityRecord:
        if self.min_length > self.max_length:
            raise ValueError(f"expected min_length <= max_length, got {self.min_length}, {self.max_length}")
        return self


class EngineRecord(_Model):
    """A TensorRT engine: native code for one library version and a list of targets.

    Attributes:
        targets: the architectures that it runs on: `sm86`, …, or `ampere-plus`, sm80 and all later ones.
            `version-compatible` beside one: every version of the library with the same first number loads it.
        library_version: the version that built it; without `version-compatible`, the only one that loads it.
        optimization_profiles: the optimization-profile index of each bucket that the engine serves.
        stripped: built without weights; refitted from `weights.bin` when it is opened.
    """

    backend: Literal["tensorrt", "tensorrt-rtx"]
    targets: Annotated[tuple[Name, ...], Field(min_length=1, strict=False)]
    file: Path
    library_version: str
    network: str
    optimization_profiles: Annotated[dict[str, Annotated[int, Field(ge=0)]], Field(min_length=1)]
    stripped: bool = False


class SpecialTokens(_Model):
    """Token ids that frame every segment of the `tokens` input: `[101]`, `[102]` for BERT."""

    prefix: Annotated[tuple[int, ...], Field(max_length=64, strict=False)] = ()
    suffix: Annotated[tuple[int, ...], Field(max_length=64, strict=False)] = ()


class SourceRecord(_Model):
    """Where the model came from; `sha256` covers its weights and configuration."""

    kind: Literal["huggingface", "safetensors", "module", "adaptive"]
    sha256: Sha256


class FileRecord(_Model):
    """A file of the bundle; `path` is relative to it, with forward slashes."""

    path: Path
    bytes: Annotated[int, Field(ge=0)]
    sha256: Sha256


class Manifest(_Model):
    """The bundle's table of contents.

    Attributes:
        padding_invariant: padding does not change an answer beyond the tolerance (measured by the build); where it
            does, the runtime batches rows of equal length only.
        fusion: the graphs of a model that fuses segments itself.
        decoder: what the graphs of a causal language model are; None for every other model.
        quality: what is known of the sub-networks by length; the first record that holds a length counts.
        min_quality: the least that `quality` must promise of the bucket that an input runs in; None: any will do.
        weights: the one file with all weights, None for a model without any.
        planned_inputs: the traffic that the buckets were planned for, as in a resource profile.
    """

    format: Annotated[int, Field(ge=1)]
    name: Name
    task: Name
    source: SourceRecord
    toolchain: dict[str, str]
    inputs: Annotated[tuple[InputSpec, ...], Field(min_length=1, max_length=64, strict=False)]
    outputs: Annotated[tuple[OutputSpec, ...], Field(min_length=1, max_length=64, strict=False)]
    padding_invariant: bool
    special_tokens: SpecialTokens
    buckets: Annotated[tuple[BucketRecord, ...], Field(min_length=1, max_length=64, strict=False)]
    engines: Annotated[tuple[EngineRecord, ...], Field(max_length=256, strict=False)] = ()
    fusion: FusionRecord | None = None
    decoder: DecoderRecord | None = None
    quality: Annotated[tuple[QualityRecord, ...], Field(max_length=4096, strict=False)] = ()
    min_quality: Quality | None = None
    overflow: Overflow
    session_budget: Annotated[int, Field(ge=1)] | None
    share_weights: ShareWeights
    weights: Path | None
    tokenizer: Path | None
    parity_report: Path | None
    planned_inputs: PlannedInputs | None = None
    files: Annotated[tuple[FileRecord, ...], Field(max_length=4096, strict=False)]

    @model_validator(mode="after")
    def _check_names(self) -> Manifest:
        for kind, specs in (("input", self.inputs), ("output", self.outputs)):
            names = [spec.name for spec in specs]
            if len(set(names)) != len(names):
                raise ValueError(f"two {kind}s have the same name")
        for spec in (*self.inputs, *self.outputs):
            if spec.shape[0] != "batch" or spec.shape.count("batch") > 1 or spec.shape.count("length") > 1:
                raise ValueError(f"{spec.name}: expected a shape (batch, …) with at most one length, got {spec.shape}")
        if not any(spec.length_axis is not None for spec in self.inputs):
            raise ValueError("no input has a length axis")
        for role in ("tokens", "mask"):
            if sum(spec.role == role for spec in self.inputs) > 1:
                raise ValueError(f"more than one input has the role {role!r}")
        self._check_room(len(self.special_tokens.prefix) + len(self.special_tokens.suffix))
        check_planned_inputs(self.planned_inputs, len(self.buckets))
        return self

    def _check_room(self, framing: int) -> None:
        """Raise ValueError if a segment has no token of its own beside `framing` tokens and the overlap."""
        if self.overflow.policy == "segment" and self.overflow.overlap + framing >= self.max_length:
            raise ValueError(
                f"segments of {self.max_length} tokens leave no room beside {framing} special tokens and an overlap "
                f"of {self.overflow.overlap}"
            )

    @model_validator(mode="after")
    def _check_fusion(self) -> Manifest:
        learned = [spec for spec in self.outputs if spec.fusion == "learned"]
        if any(spec.length_axis is not None for spec in learned):
            raise ValueError("an output with a length can't be learned: it is joined token by token")
        if self.min_quality is not None and not self.quality:
            raise ValueError("min_quality needs a table of quality")
        if self.fusion is None:
            if learned:
                raise ValueError(f"{learned[0].name} is learned, but the bundle has no graphs of a fusion")
            return self
        pooled = [spec for spec in self.outputs if spec.length_axis is None]
        if pooled != learned:
            raise ValueError("with a fusion, every output without a length is learned")
        if (self.fusion.finish is None) != (pooled == list(self.outputs)):
            raise ValueError("the fusion has a graph to finish outputs with a length exactly if there are any")
        self._check_room(self.fusion.prefix + self.fusion.suffix)
        for spec in (*self.inputs, *self.outputs):
            if spec.name in get_args(State):
                raise ValueError(f"{spec.name!r} is what the graphs of the fusion call a state of their own")
        return self

    @model_validator(mode="after")
    def _check_decoder(self) -> Manifest:
        policy = self.overflow.policy
        if self.decoder is None:
            if policy == "sliding":
                raise ValueError("the overflow policy sliding is one of causal language models")
            return self
        if policy not in ("sliding", "error"):
            raise ValueError(f"a causal language model can't {policy} what is too long")
        if policy == "sliding" and self.decoder.sinks + 2 > self.max_length:
            raise ValueError(f"a cache of {self.max_length} tokens has no room beside {self.decoder.sinks} sinks")
        stated = [(spec.name, spec.dtype, spec.shape) for spec in (*self.inputs, *self.outputs)]
        wanted = [
            ("input_ids", "int64", ("batch", "length")),
            ("logits", "float32", ("batch", self.decoder.vocab_size)),
        ]
        unmasked = any(bucket.unmasked_graph for bucket in self.buckets)
        if stated != wanted or self.inputs[0].role != "tokens" or unmasked or self.fusion is not None:
            raise ValueError("a causal language model takes input_ids, gives logits and has one graph for a bucket")
        return self

    def check_buckets(self) -> None:
        """Raise ValueError unless the buckets tile `1..max`."""
        check_tiling(self.buckets)

    @property
    def mask(self) -> InputSpec | None:
        """The input that is 1 on real tokens and 0 on padding, if the model has one."""
        return next((spec for spec in self.inputs if spec.role == "mask"), None)

    @property
    def max_length(self) -> int:
        """The longest input, in tokens, that runs without segments."""
        return self.buckets[-1].max_length

    def engines_for(self, backend: BackendName, bucket: str) -> tuple[EngineRecord, ...]:
        """The engines that serve `bucket` on `backend`, in the order of the manifest."""
        return tuple(e for e in self.engines if e.backend == backend and bucket in e.optimization_profiles)
