import importlib

import pytest
import wandb
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ctx_models.errors import ModelError
from ctx_models.subnetwork import SubNetwork
from ctx_models.training import TrainingConfig, log_to, train
from tests.fixtures.training import tagging, untrained

CONFIG = TrainingConfig(epochs=2, batch_tokens=256, sandwich=(SubNetwork(layers=1),))


def run(logger, folder):
    with log_to(logger, folder, CONFIG) as on_event:
        train(untrained(), tagging(), CONFIG, evaluate=lambda model: {"f1/full/all": 0.5}, on_event=on_event)


def test_tensorboard_gets_every_step_and_epoch(tmp_path):
    run("tensorboard", tmp_path)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    steps = events.Scalars("train/loss")
    assert [scalar.step for scalar in steps] == list(range(1, len(steps) + 1))
    assert {"train/lr", "train/part_loss", "train/tokens", "epoch/loss"} <= set(events.Tags()["scalars"])
    assert [scalar.value for scalar in events.Scalars("quality/f1/full/all")] == [0.5, 0.5]


def test_weights_and_biases_writes_an_offline_run(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    run("wandb", tmp_path)
    wandb.teardown()  # its service writes on until the process ends
    (log,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    content = log.read_bytes()
    assert b"quality/f1/full/all" in content and b"train/part_loss" in content


def test_an_unknown_logger_is_one_line(tmp_path):
    with pytest.raises(ModelError, match="unknown logger 'mlflow'") as caught, log_to("mlflow", tmp_path, CONFIG):
        pass
    assert caught.value.hint == "the loggers are tensorboard, wandb"


@pytest.mark.parametrize(("logger", "package"), [("tensorboard", "tensorboard"), ("wandb", "wandb")])
def test_a_missing_logger_is_the_pip_line(tmp_path, monkeypatch, logger, package):
    def missing(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ModelError, match=package) as caught, log_to(logger, tmp_path, CONFIG):
        pass
    assert caught.value.hint == "pip install 'ctx-export[train]'"
