import json

import pytest

from tests.fixtures.bundles import edit_manifest, write_tiny_bundle


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    root = write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")
    edit_manifest(root, lambda manifest: manifest.update(planned_inputs=[80, 20, 0]))
    return root


def record(folder, **counts):
    path = folder / "lengths.json"
    path.write_text(json.dumps({"lengths": {length.lstrip("n"): count for length, count in counts.items()}}))
    return path


def test_lengths_stand_by_bucket(command, tmp_path):
    root = write_tiny_bundle(tmp_path / "tiny")
    status, out, _ = command("stats", root, "--recorded", record(tmp_path, n16=3, n17=1, n400=1), "--json")
    answer = json.loads(out)
    assert status == 0 and (answer["inputs"], answer["p50"], answer["longest"]) == (5, 16, 400)
    assert [(b["bucket"], b["inputs"]) for b in answer["buckets"]] == [
        ("ctx-16", 3),
        ("ctx-48", 1),
        ("longer than 48", 1),
    ]
    status, out, _ = command("stats", root, "--recorded", tmp_path / "lengths.json")
    assert status == 0 and "longer than 48" in out and "60.0%" in out


def test_traffic_as_planned_fits(command, planned, tmp_path):
    status, out, _ = command("stats", planned, "--recorded", record(tmp_path, n10=81, n30=19), "--drift")
    assert status == 0 and "the buckets fit this traffic" in out


def test_other_traffic_calls_for_a_plan_and_exit_1(command, planned, tmp_path):
    path = record(tmp_path, n10=20, n30=60, n90=20)
    status, out, _ = command("stats", planned, "--recorded", path, "--drift")
    assert status == 1 and f"ctx-export plan --traffic {path}" in out
    status, out, _ = command("stats", planned, "--recorded", path, "--drift", "--json")
    answer = json.loads(out)
    assert status == 1 and answer["drift"]["verdict"] == "replan"
    assert [bucket["planned_share"] for bucket in answer["buckets"]] == [0.8, 0.2, 0]
    assert answer["drift"]["index"] == pytest.approx(sum(bucket["index"] for bucket in answer["buckets"]))


def test_a_bundle_that_was_planned_for_nothing_says_so(command, tmp_path):
    root = write_tiny_bundle(tmp_path / "tiny")
    status, _, err = command("stats", root, "--recorded", record(tmp_path, n10=1), "--drift")
    assert status == 2 and "planned for" in err and "ctx-export plan" in err


@pytest.mark.parametrize(("text", "message"), [(None, "can't be read"), ("{", "not a recorded histogram")])
def test_a_bad_file_is_one_line(command, planned, tmp_path, text, message):
    path = tmp_path / "lengths.json"
    if text is not None:
        path.write_text(text)
    status, _, err = command("stats", planned, "--recorded", path)
    assert status == 2 and message in err and len(err.splitlines()) == 2
