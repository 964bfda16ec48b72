"""What every test runs under: no network for models, a cache of its own, and a reason for each skip."""

import os
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import hypothesis
import pytest

hypothesis.settings.register_profile("shared", deadline=None)  # a busy machine is no defect
hypothesis.settings.load_profile("shared")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # idle threads of PyTorch and ONNX Runtime leave the cores alone
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # each core has a worker of its own


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what this machine lacks the parts for."""
    lacking = {}
    if find_spec("tensorrt_rtx") is None:
        lacking["rtx"] = "needs the extra `rtx`: CTX_EXTRAS=rtx make test"
    if shutil.which("nvidia-smi") is None:
        lacking["gpu"] = "needs an NVIDIA GPU"
    for item in items:
        for marker, reason in lacking.items():
            if marker in item.keywords:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session", autouse=True)
def _build_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Builds and runtimes without a cache folder of their own share one that goes with the session.

    That of the builds is the same for all workers: a model is exported once for all tests.
    """
    folder: Path = tmp_path_factory.mktemp("cache")
    together = tmp_path_factory.getbasetemp().parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CTX_EXPORT_CACHE", str(together / "build-cache"))
        patch.setenv("CTX_RUNTIME_CACHE", str(folder / "runtime"))
        yield
