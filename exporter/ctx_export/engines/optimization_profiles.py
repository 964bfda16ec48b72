"""Buckets -> optimization profiles: the shapes that an engine takes, and those that its kernels are tuned for."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from types import ModuleType

from ctx_export.engines import Bounds, Dims, EngineRequest, ProfileShapes
from ctx_runtime.backends.tensorrt_library import Native
from ctx_runtime.decoder import DecoderRecord, StepTensor
from ctx_runtime.errors import EngineError
from ctx_runtime.manifest import BucketRecord, DType, InputSpec


def profiles_of(buckets: Sequence[BucketRecord], inputs: Sequence[InputSpec]) -> tuple[ProfileShapes, ...]:
    """One profile a bucket, in their order: every input from one row of the fewest tokens to the most of both.

    One row, whatever the bucket's batches: a window of a long input is a batch of one. The first profile starts at one
    token, as the graphs do: a memory budget may move a row of any shorter bucket here.
    """
    lows = [1, *(bucket.min_length for bucket in buckets[1:])]
    return tuple(
        ProfileShapes(
            bucket=bucket.name, index=index, inputs={spec.name: _bounds(bucket, low, spec) for spec in inputs}
        )
        for index, (bucket, low) in enumerate(zip(buckets, lows, strict=True))
    )


def decoder_profile(
    bucket: BucketRecord, decoder: DecoderRecord, inputs: Collection[str]
) -> tuple[ProfileShapes, dict[str, DType]]:
    """The one profile of a decoder's bucket, from one token to a chunk, tuned for one; and the dtypes of its inputs.

    Decoding takes one token a step and prefill a chunk. A second profile for it would nearly double the engine.
    """
    tensors = [tensor for tensor in decoder.inputs if tensor.name in inputs]
    longest = min(decoder.chunk, bucket.max_length)

    def dims(tensor: StepTensor, batch: int, length: int) -> Dims:
        sizes = {"batch": batch, "length": length, "capacity": bucket.max_length}
        return tuple(sizes[dim] if isinstance(dim, str) else dim for dim in tensor.shape)

    shapes = {
        tensor.name: Bounds(
            min=dims(tensor, 1, 1), opt=dims(tensor, bucket.batch.opt, 1), max=dims(tensor, bucket.batch.max, longest)
        )
        for tensor in tensors
    }
    return ProfileShapes(bucket=bucket.name, index=0, inputs=shapes), {tensor.name: tensor.dtype for tensor in tensors}


def _bounds(bucket: BucketRecord, min_length: int, spec: InputSpec) -> Bounds:
    def dims(batch: int, length: int) -> Dims:
        return tuple({"batch": batch, "length": length}[dim] if isinstance(dim, str) else dim for dim in spec.shape)

    return Bounds(
        min=dims(1, min_length),
        opt=dims(bucket.batch.opt, bucket.opt_length),
        max=dims(bucket.batch.max, bucket.max_length),
    )


def check_profiles(profiles: Sequence[ProfileShapes]) -> None:
    """Refuse bounds that TensorRT would drop without a word.

    Raises:
        EngineError: a min above its opt, or an opt above its max.
    """
    for profile in profiles:
        for name, bounds in profile.inputs.items():
            if any(not low <= opt <= high for low, opt, high in zip(bounds.min, bounds.opt, bounds.max, strict=True)):
                raise EngineError(
                    f"{profile.bucket}: input {name!r} has min {list(bounds.min)}, opt {list(bounds.opt)}, max "
                    f"{list(bounds.max)}",
                    hint="expected min <= opt <= max in every dimension",
                )


def add_profiles(trt: ModuleType, builder: Native, config: Native, network: Native, request: EngineRequest) -> None:
    """Give the build one optimization profile a bucket; `trt` is the library's module.

    Raises:
        EngineError: a profile does not name exactly the dynamic inputs, or gets another index than its bucket.
    """
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    dynamic = {tensor.name for tensor in inputs if -1 in tuple(tensor.shape)}
    check_profiles(request.profiles)
    for shapes in request.profiles:
        if dynamic != {name for name, bounds in shapes.inputs.items() if name in dynamic or bounds.min != bounds.max}:
            raise EngineError(
                f"{shapes.bucket}: the profile names {', '.join(sorted(shapes.inputs))}, the network's dynamic inputs "
                f"are {', '.join(sorted(dynamic)) or 'none'}"
            )
        profile = builder.create_optimization_profile()
        for name in sorted(dynamic):
            bounds = shapes.inputs[name]
            profile.set_shape(name, bounds.min, bounds.opt, bounds.max)
        index = config.add_optimization_profile(profile)
        if index != shapes.index:
            raise EngineError(f"{shapes.bucket}: TensorRT gave its profile the index {index}, expected {shapes.index}")
