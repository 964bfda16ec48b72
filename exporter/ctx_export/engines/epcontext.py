"""EPContext models: an ONNX file with one node that stands for an engine, as ONNX Runtime's TensorRT-RTX plug-in opens.

They are written outside the bundle, whose reader refuses a graph that reads files. No GPU has run one yet.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import onnx
from onnx import helper

from ctx_runtime.bundle import Bundle
from ctx_runtime.errors import EngineError
from ctx_runtime.manifest import DType, EngineRecord, InputSpec, Manifest, OutputSpec

_PROVIDER = "NvTensorRTRTXExecutionProvider"
_ELEMENTS: dict[DType, int] = {
    "float32": onnx.TensorProto.FLOAT,
    "float16": onnx.TensorProto.FLOAT16,
    "int64": onnx.TensorProto.INT64,
    "int32": onnx.TensorProto.INT32,
    "bool": onnx.TensorProto.BOOL,
}


def write_epcontext_models(bundle: Bundle, folder: Path) -> list[Path]:
    """Write an EPContext model for each TensorRT-RTX engine of `bundle` to `folder`, a copy of the engine beside it.

    Returns:
        The models, `sm86+sm89-all.onnx` for `engines/tensorrt-rtx/sm86+sm89/all.engine`.

    Raises:
        EngineError: `folder` is in the bundle, or can't be written; no engine is TensorRT-RTX's, or one has no weights.
    """
    if folder.resolve().is_relative_to(bundle.root.resolve()):
        raise EngineError(
            f"{folder} is in the bundle, which takes no EPContext models", hint="give a folder outside it"
        )
    records = [record for record in bundle.manifest.engines if record.backend == "tensorrt-rtx"]
    if not records:
        raise EngineError("the bundle has no TensorRT-RTX engine", hint="build one with --target rtx:…")
    stripped = next((record.file for record in records if record.stripped), None)
    if stripped is not None:
        raise EngineError(f"{stripped} has no weights, which an EPContext model needs", hint="build it without --strip")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return [_write(bundle, record, folder) for record in records]
    except OSError as error:
        raise EngineError(f"{folder} can't be written: {error.strerror or error}") from error


def _write(bundle: Bundle, record: EngineRecord, folder: Path) -> Path:
    file = PurePosixPath(record.file)
    engine = folder / f"{file.parent.name}-{file.name}"
    shutil.copyfile(bundle.path(record.file), engine)
    model = engine.with_suffix(".onnx")
    onnx.save(epcontext_model(bundle.manifest, record, engine.name), model)
    return model


def epcontext_model(manifest: Manifest, record: EngineRecord, engine: str) -> onnx.ModelProto:
    """The model of one engine: its inputs and outputs, and the node that names the file `engine` beside the model."""
    served = [bucket for bucket in manifest.buckets if bucket.name in record.optimization_profiles]
    node = helper.make_node(
        "EPContext",
        [spec.name for spec in manifest.inputs],
        [spec.name for spec in manifest.outputs],
        domain="com.microsoft",
        main_context=1,
        embed_mode=0,
        ep_cache_context=engine,
        source=_PROVIDER,
        ep_sdk_version=record.library_version,
        hardware_architecture=",".join(record.targets),
        partition_name=f"{_PROVIDER}_{manifest.name}_{record.network}",
        onnx_model_filename=PurePosixPath(served[-1].graph).name,
    )
    graph = helper.make_graph([node], manifest.name, _values(manifest.inputs), _values(manifest.outputs))
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    onnx.checker.check_model(model)
    return model


def _values(specs: Sequence[InputSpec] | Sequence[OutputSpec]) -> list[onnx.ValueInfoProto]:
    return [helper.make_tensor_value_info(spec.name, _ELEMENTS[spec.dtype], spec.shape) for spec in specs]
