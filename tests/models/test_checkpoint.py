from __future__ import annotations

import json

import pytest
import safetensors.torch
import torch

from ctx_models.checkpoint import is_checkpoint, load_model, save_model
from ctx_models.errors import ModelError
from ctx_models.subnetwork import LengthPolicy, RopeScaling, SubNetwork
from tests.fixtures.adaptive import SEGMENTS, tiny_model, tokens

POLICY = LengthPolicy(((16, SubNetwork(1, 2, 20)), (64, SubNetwork(position_resolution=RopeScaling("yarn", 2)))))
TASKS = ["token-classification", "text-classification", "feature-extraction", "text-generation"]


@pytest.mark.parametrize("task", TASKS)
def test_a_model_reads_back_with_all_that_is_beside_it(task, tmp_path):
    model = tiny_model(task, segment=None if task == "text-generation" else SEGMENTS)
    (tmp_path / "t.json").write_text("{}")
    rows = [{"max_length": 16, "f1": 0.5}]
    save_model(model, tmp_path / "m", policy=POLICY, tokenizer=tmp_path / "t.json", quality=rows)
    found, (ids, mask) = load_model(tmp_path / "m"), tokens([40, 9])
    for name, output in model(ids, mask).items():
        torch.testing.assert_close(found.model(ids, mask)[name], output, rtol=0, atol=0)
    assert (found.model.config, found.model.task, found.model.labels) == (model.config, task, model.labels)
    assert (found.policy, found.quality) == (POLICY, tuple(rows))
    assert found.tokenizer is not None
    assert found.tokenizer.read_text() == "{}"
    assert not found.model.training


def test_saving_again_replaces_and_the_digest_says_so(tmp_path):
    folder = tmp_path / "m"
    save_model(tiny_model(), folder, policy=POLICY, quality=[{"f1": 0.5}])
    first = load_model(folder).sha256
    save_model(tiny_model(), folder)
    second = load_model(folder)
    assert (second.policy, second.quality, second.tokenizer) == (None, (), None)
    assert second.sha256 != first
    save_model(tiny_model(), folder)
    assert load_model(folder).sha256 == second.sha256
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_another_folder_is_not_replaced(tmp_path):
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ModelError, match="is there, and is no length-adaptive model"):
        save_model(tiny_model(), tmp_path / "letters")
    assert not is_checkpoint(tmp_path / "letters")
    with pytest.raises(ModelError, match=r"its config\.json has another model_type"):
        load_model(tmp_path / "letters")


def change_config(folder, **changes):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def change_weights(folder, change):
    file = folder / "model.safetensors"
    state = safetensors.torch.load_file(file)
    change(state)
    safetensors.torch.save_file(state, file)


NAME = "classifier.bias"
DAMAGES = {
    "has no config.json": lambda folder: (folder / "config.json").unlink(),
    "config.json can't be read": lambda folder: (folder / "config.json").write_bytes(b"\xff{"),
    "its top level is no dict": lambda folder: (folder / "config.json").write_text("[]"),
    "config.json is not sound: ": lambda folder: change_config(folder, network=None),
    "the configuration is not sound": lambda folder: change_config(folder, network={"depth": 3}),
    "unknown task 'sums'": lambda folder: change_config(folder, task="sums"),
    "a length policy's step is not sound": lambda folder: change_config(folder, policy=[{}]),
    "model.safetensors can't be read": lambda folder: (folder / "model.safetensors").write_bytes(b"torn"),
    f"has no tensor {NAME}": lambda folder: change_weights(folder, lambda state: state.pop(NAME)),
    "has an unknown tensor more": lambda folder: change_weights(folder, lambda s: s.update(more=torch.ones(1))),
    f"{NAME} has the shape \\[2\\], not \\[3\\]": lambda folder: change_weights(
        folder, lambda state: state.update({NAME: torch.ones(2)})
    ),
    "quality.json is not sound": lambda folder: (folder / "quality.json").write_text("{}"),
}


@pytest.mark.parametrize("message", DAMAGES)
def test_a_damaged_folder_is_refused_in_one_line(message, tmp_path):
    save_model(tiny_model(), tmp_path / "m")
    DAMAGES[message](tmp_path / "m")
    with pytest.raises(ModelError, match=message) as error:
        load_model(tmp_path / "m")
    assert "\n" not in str(error.value)
