import pytest
from starlette.testclient import TestClient

from ctx_runtime import Runtime
from ctx_runtime.serving.admission import Gate
from ctx_runtime.serving.app import Limits, create_app
from tests.fixtures.bundles import write_tiny_bundle


@pytest.fixture(scope="session")
def bundle(tmp_path_factory):
    return write_tiny_bundle(tmp_path_factory.mktemp("serving") / "tiny", tokenizer=True)


@pytest.fixture(scope="session")
def talker(tmp_path_factory):
    from tests.fixtures.decoder_bundles import wrap_decoder  # loads PyTorch

    return wrap_decoder("llama", tmp_path_factory.mktemp("serving") / "llama", tokenizer=True)


@pytest.fixture(scope="module")
def client(bundle):
    """A client of an application in this process, without a server."""
    with Runtime.open(bundle) as runtime:
        yield TestClient(create_app(runtime, Gate(warm=True), Limits(max_body="1 MiB")))
