import dataclasses
import math
import signal
import subprocess
import sys

import pytest
import torch

from ctx_models.data import Dataset, Features, collate
from ctx_models.errors import ModelError
from ctx_models.subnetwork import RopeScaling, SubNetwork
from ctx_models.training import EpochDone, Resumed, StepDone, TrainingConfig, between, train
from ctx_models.training.objective import accumulate_gradients, scores_and_targets
from ctx_models.training.optimising import learning_rate
from ctx_models.training.sandwich import draw
from tests.fixtures.training import LABELS, tagging, untrained

HALF = SubNetwork(layers=1)
QUICK = TrainingConfig(epochs=2, lr=3e-3, batch_tokens=128)


def interrupt_after(step):
    def on_event(event):
        if isinstance(event, StepDone) and event.step == step:
            raise KeyboardInterrupt

    return on_event


def mean_loss(model, data, part=None):
    batch = collate(data, range(len(data.features)))
    with torch.no_grad():
        return torch.nn.functional.cross_entropy(*scores_and_targets(model, batch, part)).item()


def texts(task):
    """Texts whose class is their second token's, the pairs of texts that share a token, or counting to follow."""
    starts = [3 + index % 6 for index in range(60)]
    if task == "text-classification":
        features = [Features(((2, start, 9),), (start % 2,)) for start in starts]
    elif task == "feature-extraction":
        features = [Features(((2, start), (start, 10, 2))) for start in range(3, 9)]
    else:
        features = [Features(((start, start + 1, start + 2),), (start + 1, start + 2, -100)) for start in starts]
    return Dataset(task, LABELS if task == "text-classification" else (), tuple(features), pad_id=0)


@pytest.mark.parametrize("task", ["text-classification", "feature-extraction", "text-generation"])
def test_every_task_is_learned(task):
    model, data = untrained(task), texts(task)
    before = mean_loss(model.eval(), data)
    train(model, data, TrainingConfig(epochs=12, lr=5e-3, batch_tokens=64))
    assert mean_loss(model, data) < 0.6 * before and not model.training


@pytest.mark.parametrize(("method", "lr", "epochs"), [("full", 5e-3, 12), ("lora", 1e-2, 24), ("adalora", 5e-2, 24)])
def test_tokens_are_learned_with_every_method(method, lr, epochs):
    model, data = untrained(), tagging()
    names = set(model.state_dict())
    train(model, data, TrainingConfig(epochs=epochs, lr=lr, batch_tokens=128, method=method))
    assert mean_loss(model, tagging(seed=1)) < 0.25 and set(model.state_dict()) == names


def test_the_sandwich_rule_makes_the_part_good_where_the_usual_training_does_not():
    config = TrainingConfig(epochs=20, lr=5e-3, batch_tokens=128)
    usual, adaptive = untrained(), untrained()
    train(usual, tagging(), config)
    train(adaptive, tagging(), dataclasses.replace(config, sandwich=(HALF,)))
    held_out = tagging(seed=1)
    assert mean_loss(adaptive, held_out) < 0.25
    assert mean_loss(adaptive, held_out, HALF) < 0.6 * mean_loss(usual, held_out, HALF)


def test_parts_learn_from_the_full_network_and_not_the_other_way():
    data = tagging()
    batch = collate(data, range(8))
    model = untrained(dropout=0.0)
    accumulate_gradients(model, batch, [], distill=1.0, precision="fp32")
    alone = model.backbone.stack.layers[2].ffn.up.weight.grad.clone()
    model.zero_grad()
    losses = accumulate_gradients(model, batch, [HALF], distill=1.0, precision="fp32")
    last = model.backbone.stack.layers[2].ffn.up.weight.grad  # no part of HALF: the full network's loss alone
    torch.testing.assert_close(last, alone / 2)
    full, _ = scores_and_targets(model, batch, None)
    part, _ = scores_and_targets(model, batch, HALF)
    answers = torch.distributions.Categorical(logits=full), torch.distributions.Categorical(logits=part)
    assert losses.parts == pytest.approx(torch.distributions.kl_divergence(*answers).mean().item(), rel=1e-4)


def test_the_same_run_twice_is_the_same():
    models = [untrained(), untrained()]
    for model in models:
        train(model, tagging(), dataclasses.replace(QUICK, sandwich=between(HALF, model.config)))
    assert same(*models)


def same(first, second):
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(one, other) for one, other in pairs)


PROGRAM = """
import sys, time
from pathlib import Path
from ctx_models.training import StepDone, TrainingConfig, train
from ctx_models.subnetwork import SubNetwork
from tests.fixtures.training import tagging, untrained

def on_event(event):
    if isinstance(event, StepDone):
        print(event.step, flush=True)
        time.sleep(0.1 if event.step > 9 else 0)

config = TrainingConfig(epochs=2, lr=3e-3, batch_tokens=64, checkpoint_every=4, sandwich=(SubNetwork(layers=1),))
train(untrained(), tagging(), config, snapshots=Path(sys.argv[1]), on_event=on_event)
"""


def test_a_run_killed_midway_and_resumed_ends_with_the_same_parameters(tmp_path):
    config = TrainingConfig(epochs=2, lr=3e-3, batch_tokens=64, checkpoint_every=4, sandwich=(HALF,))
    unbroken, curve = untrained(), []
    train(unbroken, tagging(), config, on_event=curve.append)
    with subprocess.Popen([sys.executable, "-c", PROGRAM, tmp_path / "run"], stdout=subprocess.PIPE, text=True) as run:
        while run.stdout.readline().strip() != "10":
            assert run.poll() is None
        run.send_signal(signal.SIGKILL)
    assert run.returncode == -signal.SIGKILL
    resumed, events = untrained(), []
    train(resumed, tagging(), config, snapshots=tmp_path / "run", resume=True, on_event=events.append)
    assert events[0] == Resumed(8, len(curve) - 2)
    assert events[1:] == curve[8:] and same(unbroken, resumed)


@pytest.mark.parametrize("method", ["full", "lora", "adalora"])
@pytest.mark.parametrize("stop", [6, 11, 14])
def test_every_method_resumes_exactly(tmp_path, method, stop):
    config = TrainingConfig(epochs=2, lr=3e-3, batch_tokens=128, method=method, checkpoint_every=5)
    unbroken, broken, resumed = untrained(), untrained(), untrained()
    train(unbroken, tagging(), config)
    with pytest.raises(KeyboardInterrupt):
        train(broken, tagging(), config, snapshots=tmp_path / "run", on_event=interrupt_after(stop))
    train(resumed, tagging(), config, snapshots=tmp_path / "run", resume=True)
    assert same(unbroken, resumed)


def test_snapshots_are_safetensors_and_json_and_only_the_newest_stays(tmp_path):
    train(untrained(), tagging(), dataclasses.replace(QUICK, checkpoint_every=1), snapshots=tmp_path / "run")
    (snapshot,) = (tmp_path / "run").iterdir()
    assert sorted(path.name for path in snapshot.iterdir()) == ["state.json", "state.safetensors"]


def broken_run(folder, **changes):
    with pytest.raises(KeyboardInterrupt):
        config = dataclasses.replace(QUICK, checkpoint_every=2, **changes)
        train(untrained(), tagging(), config, snapshots=folder, on_event=interrupt_after(4))
    return config


@pytest.mark.parametrize("change", [{"lr": 1e-3}, {"seed": 1}, {"method": "lora"}, {"sandwich": (HALF,)}])
def test_a_run_of_other_settings_is_not_resumed(tmp_path, change):
    config = dataclasses.replace(broken_run(tmp_path), **change)
    with pytest.raises(ModelError, match=f"had {next(iter(change))} ") as caught:
        train(untrained(), tagging(), config, snapshots=tmp_path, resume=True)
    assert "same model, data and settings" in caught.value.hint


def test_a_run_of_other_data_is_not_resumed(tmp_path):
    config = broken_run(tmp_path)
    with pytest.raises(ModelError, match="had data "):
        train(untrained(), tagging(seed=1), config, snapshots=tmp_path, resume=True)


def test_an_unfinished_run_is_not_thrown_away(tmp_path):
    with pytest.raises(ModelError, match="holds an unfinished run"):
        train(untrained(), tagging(), broken_run(tmp_path), snapshots=tmp_path)


def test_nothing_to_resume(tmp_path):
    with pytest.raises(ModelError, match="nothing to resume"):
        train(untrained(), tagging(), QUICK, snapshots=tmp_path / "run", resume=True)
    with pytest.raises(ModelError, match="without a folder"):
        train(untrained(), tagging(), QUICK, resume=True)


@pytest.mark.parametrize("file", ["state.json", "state.safetensors"])
def test_a_damaged_snapshot_is_one_line(tmp_path, file):
    config = broken_run(tmp_path)
    damaged = next(tmp_path.glob(f"step-*/{file}"))
    damaged.write_bytes(damaged.read_bytes()[:100])
    with pytest.raises(ModelError, match=r"step-\d+ is damaged") as caught:
        train(untrained(), tagging(), config, snapshots=tmp_path, resume=True)
    assert "\n" not in str(caught.value)


def test_events_tell_steps_and_epochs_and_what_was_measured():
    events = []
    config = dataclasses.replace(QUICK, sandwich=(HALF,))
    train(untrained(), tagging(), config, evaluate=lambda model: {"f1": float(model.training)}, on_event=events.append)
    steps = [event for event in events if isinstance(event, StepDone)]
    epochs = [event for event in events if isinstance(event, EpochDone)]
    assert [event.step for event in steps] == list(range(1, steps[-1].steps + 1))
    assert sum(event.tokens for event in steps) == 2 * sum(example.length for example in tagging().features)
    assert [(event.epoch, event.quality) for event in epochs] == [(1, {"f1": 0.0}), (2, {"f1": 0.0})]
    first = steps[: len(steps) // 2]
    assert epochs[0].loss == pytest.approx(sum(event.loss for event in first) / len(first))
    assert all(event.part_loss is not None and event.lr > 0 for event in steps)


def test_low_rank_adapters_leave_what_they_do_not_adapt():
    model, before = untrained(), untrained().state_dict()
    train(model, tagging(), dataclasses.replace(QUICK, method="lora", rank=2))
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    adapted = tuple(f".{kind}.weight" for kind in ("query", "key", "value", "output", "up", "down"))
    heads = {"classifier.weight", "classifier.bias"}
    assert changed == heads | {name for name in before if name.endswith(adapted)}
    delta = model.backbone.stack.layers[0].ffn.up.weight - before["backbone.stack.layers.0.ffn.up.weight"]
    assert torch.linalg.matrix_rank(delta.detach(), atol=1e-5) <= 2


def test_adalora_ends_within_its_budget_of_ranks():
    model, before = untrained(), untrained().state_dict()
    train(model, tagging(), TrainingConfig(epochs=6, lr=1e-2, batch_tokens=128, method="adalora", rank=2))
    ranks = [
        int(torch.linalg.matrix_rank(parameter.detach() - before[name], atol=1e-5))
        for name, parameter in model.named_parameters()
        if name.startswith("backbone.stack.layers") and parameter.ndim == 2
    ]
    assert len(ranks) == 18 and 0 < sum(ranks) <= 2 * 18 and max(ranks) <= 3


def test_a_part_runs_its_rows_of_an_adapted_weight():
    model = untrained()
    narrow = SubNetwork(layers=2, heads=2, ffn=8)
    config = TrainingConfig(epochs=12, lr=2e-2, batch_tokens=128, method="lora", sandwich=(narrow,))
    train(model, tagging(), config)
    assert mean_loss(model, tagging(seed=1), narrow) < 0.3


def test_bfloat16_activations_keep_float32_parameters():
    model, data = untrained(), tagging()
    before = mean_loss(model.eval(), data)
    train(model, data, dataclasses.replace(QUICK, epochs=6, precision="bf16"))
    assert mean_loss(model, data) < before and {p.dtype for p in model.parameters()} == {torch.float32}


def test_divergence_is_one_line():
    model = untrained()
    model.classifier.weight.data.fill_(math.inf)
    with pytest.raises(ModelError, match="not finite") as caught:
        train(model, tagging(), QUICK)
    assert caught.value.hint == "lower the learning rate"


def test_a_model_of_other_labels_is_refused():
    with pytest.raises(ModelError, match=r"labels \['O', 'B-X'\], the data for token-classification with \['O'\]"):
        train(untrained(), dataclasses.replace(tagging(), labels=("O",)), QUICK)


def test_a_part_that_the_model_does_not_have_is_refused_before_training():
    with pytest.raises(ModelError, match=r"layers is 1\.\.3"):
        train(untrained(), tagging(), dataclasses.replace(QUICK, sandwich=(SubNetwork(layers=9),)))


@pytest.mark.parametrize(
    "change",
    [{"epochs": 0}, {"lr": 0.0}, {"lr": math.nan}, {"warmup": 1.5}, {"distill": -0.1}, {"method": "dora"},
     {"precision": "fp8"}, {"random_per_step": -1}, {"clip": 0.0}],
)  # fmt: skip
def test_impossible_settings_are_one_line(change):
    with pytest.raises(ModelError, match=next(iter(change))):
        TrainingConfig(**change)


def test_the_learning_rate_rises_and_falls():
    rates = [learning_rate(TrainingConfig(lr=1.0, warmup=0.2), step, 10) for step in range(10)]
    assert rates == pytest.approx([0.5, 1.0, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125])


def test_between_lists_every_part_from_the_smallest_up_to_the_full_one():
    config = untrained().config  # 3 layers, 4 heads, 40 inner units
    assert between(HALF, config) == (SubNetwork(1, 4, 40), SubNetwork(2, 4, 40))
    parts = between(SubNetwork(2, 3, 10, RopeScaling("ntk", 2.0)), config)
    assert len(parts) == 2 * 2 * 4 - 1 and {part.ffn for part in parts} == {10, 20, 30, 40}
    assert {str(part.position_resolution) for part in parts} == {str(RopeScaling("ntk", 2.0))}
    with pytest.raises(ModelError, match="is the full network"):
        between(SubNetwork(), config)


def test_a_step_draws_the_smallest_and_some_others():
    model = untrained().config
    config = TrainingConfig(sandwich=between(SubNetwork(1, 2, 10), model), random_per_step=2)
    drawn = [draw(config, model, step) for step in range(40)]
    assert all(parts[0] == SubNetwork(1, 2, 10) and len(set(parts)) == 3 for parts in drawn)
    assert len({part for parts in drawn for part in parts}) > 20
    assert drawn[7] == draw(config, model, 7)
