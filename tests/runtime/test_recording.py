import json
import threading

import numpy as np
import pytest

from ctx_runtime import Runtime, recording
from ctx_runtime.errors import InputError
from ctx_runtime.recording import LengthRecorder, read_recorded
from tests.fixtures.bundles import write_tiny_bundle


def recorded(path):
    return read_recorded(path).counts_by_length()


def test_every_input_is_counted_once_whatever_becomes_of_it(tmp_path):
    path = tmp_path / "lengths.json"
    with Runtime.open(write_tiny_bundle(tmp_path / "tiny"), record=path) as runtime:
        runtime.run({"input_ids": np.array([[3, 4, 5]])})
        runtime.run({"input_ids": [[3, 4], [5, 6]]})
        runtime.run([{"input_ids": [7] * 16}, {"input_ids": [7] * 400}])
        runtime.submit({"input_ids": [3, 4, 5]}).result()
    assert recorded(path) == {2: 2, 3: 2, 16: 1, 400: 1}


def test_the_next_process_counts_on(tmp_path):
    path = tmp_path / "lengths.json"
    for _ in range(2):
        recorder = LengthRecorder(path)
        recorder.note(7)
        recorder.close()
    assert recorded(path) == {7: 2} and [file.name for file in tmp_path.iterdir()] == ["lengths.json"]


def test_threads_lose_no_count(tmp_path):
    recorder = LengthRecorder(tmp_path / "lengths.json")
    threads = [threading.Thread(target=lambda: [recorder.note(n) for n in range(1, 101)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    recorder.close()
    assert recorded(tmp_path / "lengths.json") == dict.fromkeys(range(1, 101), 8)


def test_a_killed_process_loses_a_minute_at_most(tmp_path, monkeypatch):
    monkeypatch.setattr(recording, "_SAVE_EVERY_S", -1.0)
    LengthRecorder(tmp_path / "lengths.json").note(5)
    assert recorded(tmp_path / "lengths.json") == {5: 1}


def test_nothing_is_written_for_nothing(tmp_path):
    LengthRecorder(tmp_path / "lengths.json").close()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["", "[]", '{"lengths": {"0": 1}}', '{"lengths": {"3": -1}}'])
def test_another_file_is_not_written_over(tmp_path, text):
    path = tmp_path / "lengths.json"
    path.write_text(text)
    with pytest.raises(InputError, match="not a recorded histogram"):
        LengthRecorder(path)
    assert path.read_text() == text


def test_a_folder_that_is_missing_is_told_at_once(tmp_path):
    with pytest.raises(InputError, match="not a folder"):
        LengthRecorder(tmp_path / "none" / "lengths.json")


def test_a_disk_that_can_not_be_written_is_told_once_and_stops_nothing(tmp_path):
    folder = tmp_path / "gone"
    folder.mkdir()
    recorder = LengthRecorder(folder / "lengths.json")
    folder.rmdir()
    recorder.note(5)
    with pytest.warns(RuntimeWarning, match="can't be recorded") as told:
        recorder.close()
        recorder.close()
    assert len(told) == 1
    folder.mkdir()
    recorder.close()
    assert json.loads((folder / "lengths.json").read_text()) == {"lengths": {"5": 1}}
