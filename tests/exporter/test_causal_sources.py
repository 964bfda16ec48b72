"""Which models generate, and what their folders say of the ends of a text and of chats."""

from __future__ import annotations

import json

import pytest

from ctx_export.sources.causal import generates, load_causal
from ctx_runtime.errors import SourceError
from tests.fixtures.decoders import TEMPLATE, write_decoder
from tests.fixtures.models import write_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_decoder("llama", tmp_path_factory.mktemp("models") / "llama")


def rewrite(path, **changes):
    values = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(values | changes))


def test_the_configuration_or_the_task_says_that_a_model_generates(folder, tmp_path):
    bert = write_model("bert", "fill-mask", tmp_path / "bert")
    assert generates(folder, None) and generates(str(folder), None) and generates(bert, "text-generation")
    assert not generates(bert, None) and not generates(folder, "feature-extraction")
    assert not generates("model.safetensors", None)


def test_a_folder_becomes_a_source(folder):
    source = load_causal(folder)
    assert (source.name, source.max_length, source.rotary, source.pad_id) == ("llama", 256, True, 0)
    assert (source.bos_token_id, source.eos_token_ids, source.chat_template) == (None, (2,), TEMPLATE)
    assert source.tokenizer == folder / "tokenizer.json"


def test_a_text_ends_where_the_generation_settings_say(tmp_path):
    model = write_decoder("gpt2", tmp_path / "gpt2", template=None)
    rewrite(model / "generation_config.json", eos_token_id=[2, 9])
    source = load_causal(model, name="mine")
    assert (source.name, source.eos_token_ids, source.chat_template, source.rotary) == ("mine", (2, 9), None, False)


def test_the_default_of_several_templates_is_taken(tmp_path):
    model = write_decoder("llama", tmp_path / "llama", template=None)
    templates = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "plain"}]
    rewrite(model / "tokenizer_config.json", chat_template=templates)
    assert load_causal(model).chat_template == "plain"
    rewrite(model / "tokenizer_config.json", chat_template=7)
    with pytest.raises(SourceError, match="is not a text"):
        load_causal(model)


def test_another_model_under_this_task_is_refused(tmp_path):
    with pytest.raises(SourceError):
        load_causal(write_model("bert", "token-classification", tmp_path / "bert"))


def test_every_file_that_counts_is_in_the_digest(folder, tmp_path):
    before = load_causal(folder).record.sha256
    other = write_decoder("llama", tmp_path / "llama", template="other")
    assert load_causal(other).record.sha256 != before
