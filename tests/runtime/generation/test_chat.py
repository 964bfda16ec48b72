import sys

import pytest

from ctx_runtime import Runtime
from ctx_runtime.bundle import Bundle
from ctx_runtime.errors import BundleError, InputError, MissingExtraError
from ctx_runtime.generation.chat import ChatTemplate
from ctx_runtime.text import Tokenizer
from tests.fixtures.decoder_bundles import greedy, wrap_decoder

MESSAGES = [{"role": "t7", "content": "t8 t9"}, {"role": "t10", "content": "t11"}]


def template(root, source):
    bundle = Bundle.open(wrap_decoder("llama", root / "bundle", (16, 48), tokenizer=True, template=source, ends=(2,)))
    return ChatTemplate(bundle, Tokenizer(bundle))


def test_messages_become_the_prompt_that_the_template_writes(tmp_path):
    root = wrap_decoder("llama", tmp_path / "bundle", (16, 48), tokenizer=True)
    with Runtime.open(root) as runtime:
        generation = runtime.generate(MESSAGES, max_new_tokens=5)
        assert generation.tokens == greedy("llama", [7, 8, 9, 10, 11, 5], 5)
        rows = runtime.generate([MESSAGES, MESSAGES[:1]], max_new_tokens=5)
        assert [row.tokens for row in rows] == [generation.tokens, greedy("llama", [7, 8, 9, 5], 5)]


def test_a_template_knows_special_tokens_json_and_loop_controls(tmp_path):
    source = (
        "{{ eos_token }}{% for m in messages %}{% if loop.last %}{% break %}{% endif %}{{ m | tojson }}{% endfor %}"
    )
    assert template(tmp_path, source).render(MESSAGES) == '</s>{"role": "t7", "content": "t8 t9"}'


def test_a_bundle_without_a_template_says_so_in_one_line(tmp_path):
    with pytest.raises(InputError, match=r"^the bundle llama has no chat template$") as refused:
        template(tmp_path, None).render(MESSAGES)
    assert refused.value.hint == "give the prompt as a text or as token ids"


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("{{ raise_exception('no system role') }}", "the chat template refuses the messages: no system role"),
        ("{{ messages[9].content }}", "can't render the messages"),
        ("{{ ''.__class__.__mro__ }}", "can't render the messages: access to attribute"),
        ("{{ messages.append(1) }}", "can't render the messages"),
        ("{% for i in range(999999999) %}{% endfor %}", "can't render the messages"),
    ],
)
def test_what_a_template_refuses_or_may_not_do_is_one_line(tmp_path, source, error):
    with pytest.raises(InputError, match=error):
        template(tmp_path, source).render(MESSAGES)


def test_a_damaged_template_is_a_damaged_bundle(tmp_path):
    with pytest.raises(BundleError, match=r"chat_template\.jinja is not a template"):
        template(tmp_path, "{% if %}").render(MESSAGES)


@pytest.mark.parametrize("messages", [[{"role": "user"}], [{"content": "a"}], [{"role": "t7", "content": "t8"}, "t9"]])
def test_messages_without_a_role_or_content_are_refused(tmp_path, messages):
    with pytest.raises(InputError, match="expected messages with a role and a content"):
        template(tmp_path, "x").render(messages)


def test_without_jinja2_the_pip_line_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(MissingExtraError) as missing:
        template(tmp_path, "x").render(MESSAGES)
    assert missing.value.hint == "pip install 'ctx-export[chat]'"
