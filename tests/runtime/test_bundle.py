"""A sound bundle opens; for every rule of FORMAT.md, a bundle that breaks it is refused with the rule's code."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from ctx_runtime import onnx_scan
from ctx_runtime.bundle import Bundle, canonical_json
from ctx_runtime.constant_size import _BROADCAST, _NO_LARGER
from ctx_runtime.errors import BundleError, BundleRefusal
from ctx_runtime.manifest import FORMAT
from tests.fixtures.bundles import edit_graph, edit_manifest, external, rehash, write_manifest, write_tiny_bundle

FORMAT_PAGE = (Path(__file__).parents[2] / "runtime" / "FORMAT.md").read_text(encoding="utf-8")
GRAPH = "graphs/ctx-16.onnx"
Damage = Callable[[Path], object]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_tiny_bundle(tmp_path / "tiny")


def set_manifest(*keys: str | int, to: object) -> Damage:
    """Sets one value of the manifest, by its path of keys."""

    def edit(manifest: dict) -> None:
        value = manifest
        for key in keys[:-1]:
            value = value[key]
        value[keys[-1]] = to

    return lambda root: edit_manifest(root, edit)


def add_file(path: str, content: bytes = b"x") -> Damage:
    """Adds a file of the folder to the list under a path of its own, without creating it."""
    record = {"path": path, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    return lambda root: edit_manifest(root, lambda manifest: manifest["files"].append(record))


def write_text(text: str | bytes) -> Damage:
    data = text if isinstance(text, bytes) else text.encode()
    return lambda root: (root / "manifest.json").write_bytes(data)


def edit_text(old: str, new: str) -> Damage:
    """Changes the text of the manifest, for what `json` itself would not write."""

    def edit(root: Path) -> None:
        text = (root / "manifest.json").read_text()
        assert text.count(old) >= 1
        (root / "manifest.json").write_text(text.replace(old, new, 1))

    return edit


def edit_external(key: str, value: str, tensor: str = "positions") -> Damage:
    """Changes an external-data entry of a tensor."""

    def edit(model: onnx.ModelProto) -> None:
        [found] = [item for item in model.graph.initializer if item.name == tensor]
        [entry] = [item for item in found.external_data if item.key == key]
        entry.value = value

    return lambda root: edit_graph(root, edit)


def add_initializer(tensor: TensorProto) -> Damage:
    return lambda root: edit_graph(root, lambda model: model.graph.initializer.append(tensor))


def add_nodes(*nodes: onnx.NodeProto) -> Damage:
    return lambda root: edit_graph(root, lambda model: model.graph.node.extend(nodes))


def replace_file(path: str, write: Callable[[Path], object]) -> Damage:
    def damage(root: Path) -> None:
        (root / path).unlink()
        write(root / path)

    return damage


def add_parity(**arrays: np.ndarray) -> Damage:
    def damage(root: Path) -> None:
        np.savez(root / "parity/ctx-16.npz", **arrays)
        rehash(root)

    return damage


def make_link(root: Path) -> None:
    (root / "graphs/weights.bin").rename(root.parent / "weights.bin")
    (root / "graphs/weights.bin").symlink_to(root.parent / "weights.bin")


def constant(name: str, values: list[int]) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.array(values)))


def make_bomb(op_type: str, sizes: list[int], *inputs: str, **attributes: object) -> Damage:
    return add_nodes(
        constant("bomb_shape", sizes), helper.make_node(op_type, [*inputs, "bomb_shape"], ["bomb"], **attributes)
    )


def multiply_row(attribute: onnx.AttributeProto) -> Damage:
    """Multiplies a long row with its transpose and with a `Constant` that holds `attribute`."""
    node = onnx.NodeProto(op_type="Constant", output=["factor"], attribute=[attribute])
    row = numpy_helper.from_array(np.zeros((1, 8000), np.float32), "row")
    column = numpy_helper.from_array(np.zeros((8000, 1), np.float32), "column")
    multiply = [
        helper.make_node("Mul", ["row", "factor"], ["scaled"]),
        helper.make_node("Mul", ["scaled", "column"], ["square"]),
    ]
    return lambda root: edit_graph(
        root, lambda model: (model.graph.initializer.extend([row, column]), model.graph.node.extend([node, *multiply]))
    )


def pack_floats(root: Path) -> None:
    """Squares a `Constant` whose floats stand in one packed field, which the library reads but never writes."""
    text = onnx.AttributeProto(s=bytes(4 * 5000)).SerializeToString()
    attribute = onnx.AttributeProto(name="value_floats", type=onnx.AttributeProto.FLOATS, s=bytes(4 * 5000))
    node = onnx.NodeProto(op_type="Constant", output=["row"], attribute=[attribute])
    add_nodes(node, helper.make_node("MatMul", ["row", "row"], ["square"]))(root)
    (root / GRAPH).write_bytes((root / GRAPH).read_bytes().replace(text, b"\x3a" + text[1:]))
    rehash(root)


def hide_in_branch(root: Path) -> None:
    """Puts external data outside the bundle into a branch of an If."""
    tensor = external("secret", (4,), offset=0)
    tensor.external_data[0].value = "../../passwords"
    identity = helper.make_node("Identity", ["secret"], ["chosen"])
    chosen = helper.make_tensor_value_info("chosen", TensorProto.FLOAT, [4])
    branch = helper.make_graph([identity], "branch", [], [chosen], [tensor])
    truth = helper.make_node("Equal", ["tokens", "tokens"], ["truth"])
    node = helper.make_node("If", ["truth"], ["result"], then_branch=branch, else_branch=branch)
    edit_graph(root, lambda model: model.graph.node.extend([truth, node]))


def nest(root: Path) -> None:
    """Nests branches deeper than any model needs."""
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    graph = helper.make_graph([], "leaf", [], [value])
    for _ in range(onnx_scan.MAX_DEPTH + 1):
        node = helper.make_node("If", ["attention_mask"], [], then_branch=graph, else_branch=graph)
        graph = helper.make_graph([node], "inner", [], [value])
    edit_graph(root, lambda model: model.graph.node.extend(graph.node))


def append_bytes(data: bytes) -> Damage:
    """Appends bytes to a graph file, hashes up to date."""

    def damage(root: Path) -> None:
        (root / GRAPH).write_bytes((root / GRAPH).read_bytes() + data)
        rehash(root)

    return damage


def store_unaligned(root: Path) -> None:
    """Appends a tensor at a multiple of its element size that is none of 64."""
    with (root / "graphs/weights.bin").open("ab") as file:
        file.write(bytes(4 + 16))
    add_initializer(external("unaligned", (4,), offset=1024 + 48 * 16 + 4))(root)


def write_huge_graph(root: Path) -> None:
    with (root / GRAPH).open("wb") as file:
        file.truncate(onnx_scan.MAX_GRAPH_BYTES + 1)
    rehash(root)


CASES: dict[str, list[Damage]] = {
    "not-a-bundle": [
        lambda root: (root / "manifest.json").unlink(),
        lambda root: root.rename(root.with_name("elsewhere")),
    ],
    "manifest-syntax": [
        write_text(b"\xff{}"),
        write_text("{"),
        write_text("\ufeff{}"),
        write_text("[" * 33 + "]" * 33),
        write_text(" " * (4 << 20) + "{}"),
        edit_text('"format": 1,', '"format": 1, "format": 1,'),
        edit_text('"max_abs": 1e-05', '"max_abs": NaN'),
        edit_text('"max_abs": 1e-05', '"max_abs": 1e999'),
        edit_text('"format": 1,', f'"format": {10**30},'),
        edit_text('"ctx-export": "0"', '"ctx-export": "\\ud800"'),
        write_text('{"never closed": "' + '\\"' * 1_000_000),
        write_text("{" + "".join(f'"{index}": 1, ' for index in range(200_000)) + '"199999": 1}'),
    ],
    "manifest-schema": [
        write_text("[]"),
        set_manifest("surprise", to=1),
        set_manifest("buckets", 0, "max_length", to="16"),
        set_manifest("buckets", 0, "opt_length", to=17),
        set_manifest("inputs", 0, "shape", to=["length", "batch"]),
        set_manifest("overflow", "overlap", to=48),
        edit_text('"format": 1,', ""),
    ],
    "format-unsupported": [
        set_manifest("format", to=FORMAT + 1),
        write_text(json.dumps({"format": FORMAT + 1, "of": "a future kind"})),
    ],
    "path-unsafe": [
        *(
            add_file(path)
            for path in (
                "../weights.bin",
                "/etc/passwd",
                "graphs/../x",
                "./x",
                "graphs//x",
                "graphs/",
                "graphs\\x",
                "C:/x",
                "x\0y",
                "caf\u00e9",
                "x ",
                "x.",
                "a/b/c/d/e/f/g/h/i",
                "x" * 256,
            )
        ),
        add_file("GRAPHS/weights.bin"),
        add_file("graphs/weights.bin"),
        add_file("manifest.json"),
    ],
    "link": [
        make_link,
        lambda root: os.link(root / "graphs/weights.bin", root.parent / "other.bin"),
        replace_file("parity/report.json", os.mkfifo),
        lambda root: (root / "graphs/more").symlink_to(root / "parity"),
        lambda root: os.link(root / "manifest.json", root.parent / "other.json"),
    ],
    "file-missing": [lambda root: (root / "parity/report.json").unlink(), add_file("notes.txt")],
    "file-unlisted": [
        lambda root: (root / "graphs/ctx-16.onnx.bak").write_text(""),
        lambda root: (root / "empty").mkdir(),
        lambda root: (root / os.fsdecode(b"\xff")).write_text(""),
    ],
    "file-size": [
        lambda root: (root / "parity/report.json").write_text("{}"),
        lambda root: os.truncate(root / "graphs/weights.bin", 64),
    ],
    "file-hash": [set_manifest("files", 0, "sha256", to="0" * 64)],
    "buckets": [
        set_manifest("buckets", 1, "min_length", to=18),
        set_manifest("buckets", 1, "min_length", to=16),
        lambda root: edit_manifest(root, lambda manifest: manifest["buckets"].reverse()),
    ],
    "reference": [
        set_manifest("weights", to="graphs/other.bin"),
        set_manifest("tokenizer", to="tokenizer/tokenizer.json"),
        set_manifest("buckets", 0, "golden", to="../parity.npz"),
        set_manifest(
            "engines",
            to=[
                {
                    "backend": "tensorrt-rtx",
                    "targets": ["sm89"],
                    "file": "graphs/weights.bin",
                    "library_version": "1",
                    "network": "fp32",
                    "optimization_profiles": {"ctx-17": 0},
                }
            ],
        ),
    ],
    "graph-syntax": [
        edit_external("location", "weights.bin\0"),
        append_bytes(b"\x08"),
        append_bytes(b"\x0b"),
        append_bytes(b"\x08\x0a"),
        append_bytes(b"\xfa\x01\x00"),
        append_bytes(b"\x12\x01\xff"),
        append_bytes(b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"),
        replace_file(GRAPH, lambda path: (path.touch(), rehash(path.parent.parent))),
        add_nodes(helper.make_node("EPContext", ["tokens"], ["x"], domain="com.microsoft")),
        add_nodes(helper.make_node("Anything", ["tokens"], ["x"], domain="my.ops")),
        add_nodes(helper.make_node("Abs", ["later"], ["x"])),
        add_nodes(helper.make_node("Max", ["hidden", ""], ["x"])),
        add_nodes(helper.make_node("GatherND", ["hidden", "input_ids"], ["x"], batch_dims=-3)),
        add_nodes(helper.make_node("Cast", ["hidden"], ["x"], to=1 << 31)),
        add_nodes(helper.make_node("Abs", ["tokens"], ["hidden"])),
        add_initializer(helper.make_tensor("text", TensorProto.STRING, [1], ["x"])),
        add_initializer(helper.make_tensor("typed", TensorProto.INT64, [1], [1])),
        add_initializer(TensorProto(name="short", data_type=TensorProto.INT64, dims=[2], raw_data=bytes(8))),
        add_initializer(TensorProto(name="negative", data_type=1, dims=[-1])),
        add_initializer(TensorProto(name="vast", data_type=1, dims=[1 << 62] * 100_000, raw_data=b"")),
        add_nodes(helper.make_node("A" * 1_000_000, ["tokens"], ["x"], domain="my.ops")),
        lambda root: edit_graph(root, lambda model: model.opset_import.append(helper.make_opsetid("ai.onnx", 20))),
    ],
    "graph-inputs": [
        set_manifest("outputs", 0, "name", to="states"),
        set_manifest("outputs", 0, "shape", to=["batch", "length", 5]),
        set_manifest("inputs", 0, "dtype", to="int32"),
        set_manifest("inputs", 1, "name", to="mask"),
        set_manifest("buckets", 0, "unmasked_graph", to=GRAPH),
        set_manifest("buckets", 0, "graph", to="graphs/ctx-16.unmasked.onnx"),
        lambda root: edit_graph(root, lambda model: model.graph.output.pop()),
        lambda root: edit_graph(root, lambda model: model.graph.input.append(model.graph.input[0])),
        lambda root: edit_graph(root, lambda model: model.graph.output[0].ClearField("type")),
    ],
    "graph-size": [
        write_huge_graph,
        nest,
        make_bomb("ConstantOfShape", [33, 1 << 20]),
        make_bomb("ConstantOfShape", [1 << 62] * 100_000),
        make_bomb("Expand", [1 << 40], "one"),
        make_bomb("Tile", [1 << 40], "one"),
        add_nodes(
            constant("row", [1] * 8000),
            helper.make_node("MatMul", ["row", "row"], ["square"]),
        ),
        add_nodes(constant("row", [1] * 8000), helper.make_node("Max", ["row"] * 10_000, ["product"])),
        multiply_row(helper.make_attribute("value_float", 1.0)),
        pack_floats,
        add_nodes(
            helper.make_node("Mul", ["two", "two"], ["four"]), helper.make_node("ConstantOfShape", ["four"], ["bomb"])
        ),
    ],
    "weight-location": [
        edit_external("location", "../graphs/weights.bin"),
        edit_external("location", "/etc/passwd"),
        edit_external("location", "./weights.bin"),
        edit_external("location", "*/_ORT_MEM_ADDR_/*"),
        edit_external("location", "ctx-48.onnx"),
        set_manifest("weights", to=None),
        hide_in_branch,
    ],
    "weight-range": [
        edit_external("offset", "-64"),
        edit_external("offset", "0064"),
        edit_external("offset", "\u0661"),
        edit_external("offset", "1026"),
        store_unaligned,
        edit_external("offset", str(1 << 20)),
        edit_external("offset", str(1 << 70)),
        edit_external("length", "0"),
        edit_external("length", "128"),
        edit_external("length", "1e2"),
        edit_external("length", ""),
        add_initializer(external("nothing", (0,), offset=0)),
        lambda root: edit_graph(root, lambda model: model.graph.initializer[0].external_data.pop()),
        lambda root: edit_graph(root, lambda model: model.graph.initializer[0].external_data.add(key="checksum")),
    ],
    "weight-overlap": [edit_external("offset", "896"), add_initializer(external("across", (64,), offset=960))],
    "golden-syntax": [
        replace_file("parity/ctx-16.npz", lambda path: (path.write_bytes(b"PK"), rehash(path.parent.parent))),
        add_parity(**{"case0.lengths": np.array([{"code": 1}], dtype=object)}),
        add_parity(**{"case0.lengths": np.array(["text"])}),
        add_parity(**{"../case0": np.zeros(1)}),
        add_parity(**{"case0.out.x": np.zeros((2, 2), np.float32, order="F")}),
    ],
}


def test_a_sound_bundle_opens(root: Path) -> None:
    bundle = Bundle.open(root)
    data = (root / "manifest.json").read_bytes()
    assert bundle.manifest_sha256 == hashlib.sha256(data).hexdigest()
    assert bundle.manifest.max_length == 48
    assert bundle.path(bundle.manifest.buckets[0].graph) == root.resolve() / "graphs/ctx-16.onnx"
    assert Bundle.open(str(root), check="sizes").manifest == bundle.manifest


def test_a_bundle_may_be_reached_through_a_link(root: Path) -> None:
    link = root.with_name("current")
    link.symlink_to(root)
    assert Bundle.open(link).root == root.resolve()


@pytest.mark.parametrize(
    ("code", "damage"),
    [pytest.param(code, damage, id=f"{code}-{i}") for code, cases in CASES.items() for i, damage in enumerate(cases)],
)
def test_refused(root: Path, code: BundleRefusal, damage: Damage) -> None:
    damage(root)
    with pytest.raises(BundleError) as caught:
        Bundle.open(root)
    assert caught.value.code == code, str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 600
    assert str(caught.value).isprintable()


def test_every_code_is_written_down_and_tested() -> None:
    _, codes = FORMAT_PAGE.split("## Codes")
    table = re.findall(r"^\| `([a-z-]+)` \|", codes, re.MULTILINE)
    assert set(CASES) == set(table) == set(get_args(BundleRefusal))


def test_the_operators_written_down_are_those_of_the_scan() -> None:
    for name, operators in (
        ("`com.microsoft`", onnx_scan.CONTRIB_OPERATORS),
        ("may leave an input out", onnx_scan.OPTIONAL_INPUTS),
        ("*no more*", _NO_LARGER),
        ("*broadcast*", _BROADCAST),
    ):
        [listed] = re.findall(rf"^- {re.escape(name)}: ([^.]*)\.$", FORMAT_PAGE, re.MULTILINE)
        assert set(re.split(r",\s+", listed)) == operators


def test_sizes_leave_out_the_hashes_and_nothing_else(root: Path) -> None:
    set_manifest("files", 0, "sha256", to="0" * 64)(root)
    Bundle.open(root, check="sizes")
    edit_external("location", "/etc/passwd")(root)
    with pytest.raises(BundleError) as caught:
        Bundle.open(root, check="sizes")
    assert caught.value.code == "weight-location"


def test_slices_share_the_bytes_of_a_stored_tensor(root: Path) -> None:
    inner = external("inner", (2, 4), offset=1024 + 16)
    add_initializer(inner)(root)
    Bundle.open(root)


def test_a_problem_names_its_key(root: Path) -> None:
    set_manifest("buckets", 1, "max_length", to=0)(root)
    with pytest.raises(BundleError, match=r"buckets\.1\.max_length: Input should be greater than"):
        Bundle.open(root)


def test_what_is_written_is_canonical(root: Path) -> None:
    manifest = Bundle.open(root).manifest
    data = canonical_json(manifest)
    assert data == canonical_json(Bundle.open(root).manifest)
    assert data.endswith(b"}\n") and data.isascii() and list(json.loads(data)) == sorted(json.loads(data))
    (root / "manifest.json").write_bytes(data)
    assert Bundle.open(root).manifest == manifest
    write_manifest(root, dict(reversed(json.loads(data).items())))
    assert Bundle.open(root).manifest == manifest
