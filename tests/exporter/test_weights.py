from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from ctx_export.intervals import Interval
from ctx_export.lowering import lower_for_onnxruntime
from ctx_export.specialising import specialise
from ctx_export.weights import ALIGNMENT, EMBEDDED_BELOW, WeightStore
from tests.fixtures.graphs import exported, run, source


def model_of(*arrays: np.ndarray) -> ir.Model:
    """A graph that returns each array."""
    values, nodes = [], []
    for index, array in enumerate(arrays):
        tensor = ir.tensor(array, name=f"w{index}")
        values.append(
            ir.Value(name=tensor.name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
        )
        nodes.append(ir.node("Identity", [values[-1]], name=f"n{index}"))
        output = nodes[-1].outputs[0]
        output.name, output.shape, output.type = f"y{index}", tensor.shape, ir.TensorType(tensor.dtype)
    outputs = [node.outputs[0] for node in nodes]
    graph = ir.Graph([], outputs, nodes=nodes, initializers=values, opset_imports={"": 23}, name="g")
    return ir.Model(graph, ir_version=10)


def places(path: Path) -> dict[str, tuple[int, int]]:
    """Offset and length of every external initializer of a graph file."""
    found = {}
    for tensor in onnx.load(path, load_external_data=False).graph.initializer:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        if entries:
            assert entries["location"] == "weights.bin"
            found[tensor.name] = int(entries["offset"]), int(entries["length"])
    return found


def numbers(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=count).astype(np.float32)


def test_tensors_are_aligned_and_come_back_as_they_were(tmp_path):
    arrays = [numbers(257, 1), numbers(1001, 2).astype(np.float16), np.arange(999)]
    with WeightStore(tmp_path / "weights.bin") as store:
        store.save_graph(model_of(*arrays), tmp_path / "a.onnx")
    found = places(tmp_path / "a.onnx")
    assert len(found) == 3
    assert all(offset % ALIGNMENT == 0 for offset, _ in found.values())
    session = onnxruntime.InferenceSession(tmp_path / "a.onnx")
    for array, back in zip(arrays, session.run(None, {}), strict=True):
        np.testing.assert_array_equal(back, array)


def test_equal_bytes_are_stored_once_across_graphs_names_and_dtypes(tmp_path):
    array = numbers(512)
    with WeightStore(tmp_path / "weights.bin") as store:
        store.save_graph(model_of(array, array.copy()), tmp_path / "a.onnx")
        store.save_graph(model_of(numbers(600, 1), array.view(np.int32).reshape(2, 256)), tmp_path / "b.onnx")
    first, second = places(tmp_path / "a.onnx"), places(tmp_path / "b.onnx")
    assert first["w0"] == first["w1"] == second["w1"] != second["w0"]


def test_the_beginning_of_a_stored_tensor_is_a_range_of_it(tmp_path):
    table = numbers(4096).reshape(64, 64)
    with WeightStore(tmp_path / "weights.bin") as store:
        store.save_graph(model_of(table[:8].copy(), table), tmp_path / "a.onnx")
        store.save_graph(model_of(table[:32].copy()), tmp_path / "b.onnx")
    offset, length = places(tmp_path / "a.onnx")["w1"]
    assert length == table.nbytes
    assert places(tmp_path / "a.onnx")["w0"] == (offset, 8 * 64 * 4)
    assert places(tmp_path / "b.onnx")["w0"] == (offset, 32 * 64 * 4)
    assert (tmp_path / "weights.bin").stat().st_size == table.nbytes


def test_graphs_saved_together_share_prefixes_whichever_comes_first(tmp_path):
    deep, wide = numbers(4096, 1).reshape(64, 64), numbers(4096, 2).reshape(64, 64)
    graphs = {
        tmp_path / "a.onnx": model_of(deep[:32].copy(), wide),
        tmp_path / "b.onnx": model_of(deep, wide[:16].copy()),
    }
    with WeightStore(tmp_path / "weights.bin") as store:
        store.save_graphs(graphs)
    assert (tmp_path / "weights.bin").stat().st_size == deep.nbytes + wide.nbytes
    first, second = places(tmp_path / "a.onnx"), places(tmp_path / "b.onnx")
    assert first["w0"] == (second["w0"][0], 32 * 64 * 4)
    assert second["w1"] == (first["w1"][0], 16 * 64 * 4)


def test_a_tensor_that_only_starts_like_a_stored_one_is_stored_itself(tmp_path):
    table = numbers(4096)
    other = table[:2048].copy()
    other[-1] += 1
    with WeightStore(tmp_path / "weights.bin") as store:
        store.save_graph(model_of(table, other), tmp_path / "a.onnx")
    (a, n), (b, m) = places(tmp_path / "a.onnx").values()
    assert a + n <= b or b + m <= a
    assert onnxruntime.InferenceSession(tmp_path / "a.onnx").run(None, {})[1][-1] == other[-1]


def test_small_tensors_stay_in_the_graph_even_where_they_came_from_a_file(tmp_path):
    small, large = numbers(EMBEDDED_BELOW // 4 - 1), numbers(EMBEDDED_BELOW // 4, 1)
    ir.save(model_of(small, large), tmp_path / "from.onnx", external_data="from.data", size_threshold_bytes=0)
    with WeightStore(tmp_path / "weights.bin") as store:
        store.save_graph(ir.load(tmp_path / "from.onnx"), tmp_path / "a.onnx")
    (tmp_path / "from.data").unlink()
    assert list(places(tmp_path / "a.onnx")) == ["w1"]
    np.testing.assert_array_equal(onnxruntime.InferenceSession(tmp_path / "a.onnx").run(None, {})[0], small)


def test_a_graph_elsewhere_than_beside_the_weights_is_refused(tmp_path):
    with WeightStore(tmp_path / "weights.bin") as store, pytest.raises(ValueError, match="is not beside"):
        store.save_graph(model_of(numbers(300)), tmp_path / "elsewhere" / "a.onnx")


def test_one_tensor_is_in_memory_at_a_time(tmp_path):
    arrays = [numbers(1 << 18, seed) for seed in range(16)]
    ir.save(model_of(*arrays), tmp_path / "from.onnx", external_data="from.data")
    del arrays
    model = ir.load(tmp_path / "from.onnx")
    tracemalloc.start()
    with WeightStore(tmp_path / "weights.bin") as store:
        store.save_graph(model, tmp_path / "a.onnx")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    """Both forms of three buckets of a BERT over one weight file."""
    folder = tmp_path_factory.mktemp("graphs")
    with WeightStore(folder / "weights.bin") as store:
        for longest in (64, 32, 8):
            for form, mask in (("", None), (".unmasked", "attention_mask")):
                bucket = specialise(exported("bert"), length=Interval(1, longest), all_ones=mask)
                store.save_graph(lower_for_onnxruntime(bucket), folder / f"ctx-{longest}{form}.onnx")
    return folder


def test_all_buckets_need_no_more_weights_than_the_largest(bundle, tmp_path):
    with WeightStore(tmp_path / "weights.bin") as store:
        store.save_graph(lower_for_onnxruntime(exported("bert")), tmp_path / "one.onnx")
    assert (bundle / "weights.bin").stat().st_size == (tmp_path / "weights.bin").stat().st_size


def test_the_position_table_of_a_short_bucket_is_a_range_of_the_long_ones(bundle):
    tables = {
        longest: next(place for name, place in places(bundle / f"ctx-{longest}.onnx").items() if "position" in name)
        for longest in (64, 32, 8)
    }
    row = tables[64][1] // 64
    assert {longest: length for longest, (_, length) in tables.items()} == {64: 64 * row, 32: 32 * row, 8: 8 * row}
    assert len({offset for offset, _ in tables.values()}) == 1


def test_bucket_graphs_pass_the_checker_and_run_from_their_files(bundle):
    for path in sorted(bundle.glob("*.onnx")):
        onnx.checker.check_model(path, full_check=True)
        length = int(path.name.split(".")[0].removeprefix("ctx-"))
        arrays = source("bert").example(2, [length, length])
        session = onnxruntime.InferenceSession(path)
        answers = session.run(None, {value.name: arrays[value.name] for value in session.get_inputs()})
        for found, expected in zip(answers, run(exported("bert"), arrays).values(), strict=True):
            np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_same_graphs_give_the_same_bytes(tmp_path):
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        with WeightStore(folder / "weights.bin") as store:
            for longest in (64, 8):
                store.save_graph(specialise(exported("bert"), length=Interval(1, longest)), folder / f"{longest}.onnx")
    for name in ("weights.bin", "64.onnx", "8.onnx"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
