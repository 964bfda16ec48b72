import numpy as np
import pytest

from ctx_runtime.errors import BundleError
from ctx_runtime.golden import verify
from tests.fixtures.bundles import edit_graph, edit_manifest, rehash, write_tiny_bundle


def rewrite(root, change, name="parity/ctx-16.npz"):
    """Change the golden arrays of one bucket and list the file again."""
    with np.load(root / name) as archive:
        arrays = dict(archive.items())
    change(arrays)
    np.savez(root / name, **arrays)
    rehash(root)


@pytest.fixture
def root(tmp_path):
    return write_tiny_bundle(tmp_path / "b")


def test_a_sound_bundle_passes_in_both_forms(root):
    report = verify(root)
    assert report.passed and report.unverified == {}
    assert {(case.bucket, case.form, case.lengths) for case in report.cases} == {
        ("ctx-16", "unmasked", (16,)),
        ("ctx-16", "masked", (1, 16)),
        ("ctx-48", "unmasked", (48,)),
        ("ctx-48", "masked", (17, 48)),
    }


def test_outputs_may_be_stored_at_some_positions_only(root):
    def thin_out(arrays):
        positions = np.array([0, 7, 15])
        for case in ("case0", "case1"):
            arrays[f"{case}.positions"] = positions
            arrays[f"{case}.out.hidden"] = arrays[f"{case}.out.hidden"][:, positions]

    rewrite(root, thin_out)
    report = verify(root)
    assert report.passed and [case.lengths for case in report.cases[:2]] == [(16,), (1, 16)]
    rewrite(root, lambda arrays: arrays["case1.out.hidden"].__setitem__((1, 2), 9))
    assert [case.passed for case in verify(root).cases] == [True, False, True, True]


def test_a_wrong_expectation_fails(root):
    rewrite(root, lambda arrays: arrays["case1.out.pooled"].__iadd__(0.01))
    report = verify(root)
    assert [case.passed for case in report.cases] == [True, False, True, True]
    assert not report.passed


def test_a_network_that_computes_something_else_fails(root):
    def subtract(model):
        next(node for node in model.graph.node if node.op_type == "Mul").op_type = "Sub"

    edit_graph(root, subtract, "graphs/ctx-48.unmasked.onnx")
    failed = {(case.bucket, case.form) for case in verify(root).cases if not case.passed}
    assert failed == {("ctx-16", "unmasked"), ("ctx-48", "unmasked")}


def test_a_bucket_without_vectors_is_unverified(root):
    edit_manifest(root, lambda manifest: manifest["buckets"][0].update(golden=None))
    report = verify(root)
    assert not report.passed and report.unverified == {"ctx-16": "the bundle carries no golden vectors for it"}


@pytest.mark.filterwarnings("ignore:.*CUDA")
def test_a_bucket_that_no_backend_serves_is_unverified(root):
    report = verify(root, backends=("onnxruntime-cuda",))
    assert not report.passed and set(report.unverified) == {"ctx-16", "ctx-48"}


def test_a_missing_array_is_one_clear_line(root):
    rewrite(root, lambda arrays: arrays.pop("case0.in.input_ids"))
    with pytest.raises(BundleError, match=r"case0\.in\.input_ids") as caught:
        verify(root)
    assert caught.value.code == "golden-syntax"
