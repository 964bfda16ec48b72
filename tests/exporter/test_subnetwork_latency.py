import pytest

from ctx_export.sources.adaptive import load_adaptive
from ctx_export.subnetwork_latency import CutExport, ort_latency
from ctx_models.checkpoint import save_model
from ctx_models.subnetwork import SubNetwork
from tests.fixtures.adaptive import SEGMENTS, tiny_model


@pytest.fixture(scope="module")
def latency(tmp_path_factory):
    folder = tmp_path_factory.mktemp("latency") / "model"
    save_model(tiny_model(segment=SEGMENTS), folder)
    return ort_latency(CutExport(load_adaptive(folder, task=None, name=None), longest=32))


@pytest.mark.parametrize("part", ["full", "l1", "l2-h2-f20", "h1-yarn2"])
def test_every_sub_network_of_one_export_runs(latency, part):
    assert latency(SubNetwork.parse(part), 32, 32) > 0


def test_segments_run_one_after_another(latency, monkeypatch):
    monkeypatch.setattr("ctx_export.subnetwork_latency._median_ms", lambda run: float(bool(run())))
    part = SubNetwork()
    assert latency(part, 16, 16) == 1
    assert latency(part, 26, 16) == 2, "10 tokens of its own in each segment: 16 + 10"
    assert latency(part, 27, 16) == 3
