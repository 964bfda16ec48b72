from importlib.util import find_spec

import pytest

from ctx_export.engines.targets import check_precision, check_targets, parse_target
from ctx_runtime.errors import EngineError, MissingExtraError


@pytest.mark.parametrize(
    ("text", "backend", "names"),
    [
        ("rtx:sm89", "tensorrt-rtx", ("sm89",)),
        ("rtx:sm120,sm86,sm89,sm86", "tensorrt-rtx", ("sm86", "sm89", "sm120")),
        ("rtx:current", "tensorrt-rtx", ("current",)),
        ("trt:current", "tensorrt", ("current",)),
        ("trt:ampere+", "tensorrt", ("ampere-plus",)),
        ("trt:version-compatible", "tensorrt", ("version-compatible",)),
    ],
)
def test_a_target_names_a_library_and_architectures(text, backend, names):
    target = parse_target(text)
    assert (target.backend, target.names) == (backend, names)


@pytest.mark.parametrize("text", ["", "rtx", "rtx:", "rtx:sm90", "rtx:sm89,", "trt:sm89", "trt:", "cuda:sm89", "sm89"])
def test_anything_else_is_one_clear_line_with_what_to_give(text):
    with pytest.raises(EngineError, match="is not a target") as refused:
        parse_target(text)
    assert "rtx:LIST" in refused.value.hint and "\n" not in f"{refused.value}{refused.value.hint}"


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8", "int4"])
def test_turing_holds_fp16_only(precision):
    check_precision(parse_target("rtx:sm75"), "fp16")
    with pytest.raises(EngineError, match=f"sm75 can't run {precision}"):
        check_targets(["rtx:sm89", "rtx:sm75,sm86"], ["fp16", precision])


def test_later_architectures_and_named_targets_hold_everything():
    for text in ("rtx:sm80,sm86,sm89,sm120", "rtx:current", "trt:ampere+"):
        for precision in ("fp32", "fp16", "bf16", "int8", "int4"):
            check_precision(parse_target(text), precision)


@pytest.mark.skipif(find_spec("tensorrt") is not None, reason="classic TensorRT is installed here")
def test_a_missing_library_is_told_before_the_build():
    with pytest.raises(MissingExtraError) as missing:
        check_targets(["trt:current"], ["fp16"])
    assert missing.value.hint == "pip install 'ctx-export[tensorrt]'"
