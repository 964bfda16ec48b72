import sys

import pytest

from tests.fixtures.bundles import write_tiny_bundle
from tests.fixtures.servers import serving_process


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


def test_help_has_an_example(command):
    status, out, _ = command("serve", "--help")
    assert status == 0 and "example: ctx-runtime serve minilm.bundle --port 8000" in " ".join(out.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--max-body", "much"], "--max-body: Value error, expected bytes or a size such as '512 MiB', got 'much'"),
        (["--max-requests", "0"], "--max-requests: Input should be greater than or equal to 1"),
        (["--timeout", "0"], "--timeout: Input should be greater than 0"),
        (["--max-queue", "0"], "max_queue: expected at least 1, got 0"),
        (["--api-key-file", "absent"], "absent can't be read"),
        (["--api-key-file", "/dev/null"], "/dev/null holds no key"),
        (["--host", "256.0.0.1"], "can't listen on 256.0.0.1 port 8000"),
        (["--port", "70000"], "can't listen on 127.0.0.1 port 70000"),
    ],
)
def test_bad_options_are_one_line(command, bundle, arguments, message):
    status, out, err = command("serve", bundle, *arguments)
    assert status == 2 and out == "" and err.startswith("error: ") and message in err


def test_without_the_extra_the_pip_line_is_named(command, bundle, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("ctx_runtime.serving.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "fastapi", None)
    status, _, err = command("serve", bundle)
    assert status == 2
    assert err == "error: serving needs the package 'fastapi'\nhint: pip install 'ctx-export[serve]'\n"


def test_an_open_address_without_a_key_is_warned_of(bundle, monkeypatch):
    monkeypatch.delenv("CTX_RUNTIME_API_KEY", raising=False)
    with serving_process(bundle, "--host", "0.0.0.0") as (url, process):  # noqa: S104
        process.terminate()
        told = process.communicate(timeout=30)[1]
    assert f"warning: everyone who reaches {url} may use it: set --api-key-file or CTX_RUNTIME_API_KEY\n" in told
    assert process.returncode == 0 and "stopped; 0 requests were answered" in told
