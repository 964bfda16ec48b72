import subprocess
import sys

HEAVY = (
    "torch",
    "onnx",
    "onnx_ir",
    "transformers",
    "tensorrt",
    "tensorrt_rtx",
    "typer",
    "rich",
    "onnxruntime",
    "tokenizers",
)


def test_importing_the_runtime_loads_numpy_and_pydantic_only():
    code = f"import sys, ctx_runtime; print([name for name in {HEAVY!r} if name in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


def test_public_names_are_these():
    import ctx_runtime

    assert set(ctx_runtime.__all__) == {
        "Bundle",
        "CtxError",
        "Dispatch",
        "Explanation",
        "Generation",
        "Result",
        "Runtime",
        "Scheduling",
        "Stats",
        "__version__",
    }
    assert all(hasattr(ctx_runtime, name) for name in ctx_runtime.__all__)
