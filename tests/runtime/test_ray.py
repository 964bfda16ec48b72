from importlib.util import find_spec

import pytest

from ctx_runtime.errors import MissingExtraError


@pytest.mark.skipif(find_spec("ray") is not None, reason="Ray is installed; tests/cross/test_ray_*.py run it")
def test_without_ray_the_pip_line_is_named():
    with pytest.raises(MissingExtraError) as missing:
        import ctx_runtime.ray.serving  # noqa: F401
    assert missing.value.hint == "pip install 'ctx-export[ray]'"
