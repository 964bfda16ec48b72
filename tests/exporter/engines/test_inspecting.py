import struct

import pytest

from ctx_export.engines.inspecting import read_header
from ctx_runtime.errors import EngineError


def header(*, magic=b"vtrt", size=100, mask=0b11100):
    """As TensorRT-RTX 1.7.1.116 wrote it for sm86, sm89 and sm120."""
    return magic + bytes(12) + struct.pack("<Q4B", size, 1, 7, 1, 116) + b"vtrt" + bytes([mask]) + bytes(31)


def engine(tmp_path, data):
    path = tmp_path / "all.engine"
    path.write_bytes(data)
    return path


def test_the_header_says_size_version_and_targets(tmp_path):
    found = read_header(engine(tmp_path, header() + bytes(100 - 64)))
    assert (found.bytes, found.library_version, found.targets) == (100, "1.7.1.116", ("sm86", "sm89", "sm120"))


@pytest.mark.parametrize("size", [64, 99, 101])
def test_a_truncated_or_longer_engine_is_refused(tmp_path, size):
    with pytest.raises(EngineError, match=f"{size} bytes, its header says 100"):
        read_header(engine(tmp_path, (header() + bytes(100))[:size]))


@pytest.mark.parametrize("data", [b"", b"vtrt", header(magic=b"ONNX") + bytes(36)])
def test_what_is_no_engine_is_refused(tmp_path, data):
    with pytest.raises(EngineError, match="is not a TensorRT-RTX engine"):
        read_header(engine(tmp_path, data))
