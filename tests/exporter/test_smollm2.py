"""The real SmolLM2-135M-Instruct, from the folder that `scripts/smollm2.py` makes, against PyTorch."""

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from ctx_export.cache import default_cache_dir
from ctx_export.pipeline import build
from ctx_export.sources.causal import load_causal
from ctx_runtime import Runtime
from tests.fixtures.decoders import decoder_profile

pytestmark = pytest.mark.slow
CACHE = default_cache_dir()  # the user's own, as long as no test runs: an export of this model takes minutes
MODEL = CACHE / "models" / "SmolLM2-135M-Instruct"
TEXTS = Path(__file__).parents[2] / "samples" / "texts"
PROMPT, NEW = 200, 128


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    if not (MODEL / "model.safetensors").is_file():
        pytest.skip("needs the folder of the model: python scripts/smollm2.py")
    root = tmp_path_factory.mktemp("smollm2") / "bundle"
    profile = decoder_profile((256, 1024), threads=1, decoding={"chunk": 512, "reserve": 16})
    return build(MODEL, profile, root, cache_dir=CACHE).bundle.root


@pytest.fixture(scope="module")
def expected():
    """A prompt, and the 128 tokens that PyTorch finds most likely behind it."""
    tokenizer = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    ids = tokenizer.encode((TEXTS / "constitution.txt").read_text()).ids[:PROMPT]
    prompt = torch.tensor([ids])
    options = {"max_new_tokens": NEW, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    answer = load_causal(MODEL).model.generate(prompt, attention_mask=torch.ones_like(prompt), **options)
    return ids, answer[0, PROMPT:].tolist()


@pytest.mark.parametrize("chunk", [512, 48])
def test_128_greedy_tokens_are_those_of_pytorch_over_a_move(bundle, expected, chunk):
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["decoder"] |= {"chunk": chunk, "eos_token_ids": []}
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    prompt, tokens = expected
    with Runtime.open(bundle) as runtime:
        generation = runtime.generate(prompt)
        answer = [token.id for token, _ in zip(generation, range(NEW), strict=False)]
        generation.cancel()
    assert answer == tokens and len(set(tokens)) > 10
    assert generation.dispatch.buckets == ("ctx-256", "ctx-1024")
