import numpy as np
import pytest

from ctx_runtime.errors import InputError
from ctx_runtime.serving.tensors import InputTensor, read_inputs, write_output

DATATYPES = ["BOOL", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64", "FP16", "FP32", "FP64"]


def tensor(name="x", shape=(2,), datatype="INT32", size=None, data=None):
    return InputTensor(
        name=name, shape=list(shape), datatype=datatype, data=data, parameters={"binary_data_size": size}
    )


@pytest.mark.parametrize("datatype", DATATYPES)
@pytest.mark.parametrize("binary", [False, True])
def test_what_is_written_is_read_again(datatype, binary):
    dtype = "bool" if datatype == "BOOL" else datatype.lower().replace("fp", "float")
    array = np.array([[0, 1, 1], [1, 0, 1]], dtype)
    written, raw = write_output("x", array, binary=binary)
    assert written.datatype == datatype and (raw == b"") == (not binary)
    read = read_inputs([InputTensor.model_validate(written.model_dump(exclude_none=True))], raw)["x"]
    assert read.dtype == array.dtype and np.array_equal(read, array)


def test_binary_inputs_lie_one_after_the_other_and_json_between_them_takes_no_bytes():
    first, second = np.array([1, 2], np.int32), np.array([3.5], np.float32)
    tensors = [tensor(size=8), tensor("y", data=[7, 8]), tensor("z", (1,), "FP32", size=4)]
    read = read_inputs(tensors, first.tobytes() + second.tobytes())
    assert [array.tolist() for array in read.values()] == [[1, 2], [7, 8], [3.5]]


@pytest.mark.parametrize(
    ("tensors", "binary", "message"),
    [
        ([tensor(size=8)], b"1234567", "has 7 bytes and a binary_data_size of 8"),
        ([tensor(size=4)], b"1234", r"INT32 \[2\] has 8"),
        ([tensor(size=8)], b"123456789", "9 bytes follow the JSON, the inputs have 8"),
        ([tensor(data=[1, 2])], b"12", "2 bytes follow the JSON, the inputs have 0"),
        ([tensor(data=[1, 2], size=8)], b"12345678", "has data or binary_data_size, one of them"),
        ([tensor()], b"", "has data or binary_data_size, one of them"),
        ([tensor(data=[1, 2]), tensor(data=[1, 2])], b"", "is given twice"),
        ([tensor(data=[1, 2**31])], b"", "go beyond INT32"),
        ([tensor(data=[1, 2**80])], b"", "are no INT32"),
        ([tensor(data=["a", "b"])], b"", "are no INT32"),
        ([tensor(data=[True, False])], b"", "are no INT32"),
        ([tensor(datatype="FP32", data=[None, 1])], b"", "are no FP32"),
        ([tensor(datatype="BOOL", data=[0, 1])], b"", "are no BOOL"),
        ([tensor(shape=(0,), data=[1])], b"", "has 1 numbers"),
    ],
)
def test_what_does_not_fit_is_refused(tensors, binary, message):
    with pytest.raises(InputError, match=message):
        read_inputs(tensors, binary)


def test_json_has_no_nan():
    with pytest.raises(InputError, match="output 'x' has NaN or infinite numbers, which JSON lacks"):
        write_output("x", np.array([np.nan], np.float32), binary=False)
    assert write_output("x", np.array([np.inf], np.float32), binary=True)[1] == np.float32(np.inf).tobytes()
