"""Checkpoints of length-adaptive models: what a build is told of them, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ctx_export.sources import Source, load_source
from ctx_models.checkpoint import save_model
from ctx_models.subnetwork import LengthPolicy
from ctx_models.subnetwork import RopeScaling as OwnScaling
from ctx_models.subnetwork import SubNetwork as OwnSubNetwork
from ctx_runtime.errors import SourceError
from ctx_runtime.fusing import FusionGraphs, run_fused
from ctx_runtime.manifest import QualityRecord
from ctx_runtime.resource_profile import RopeScaling, SubNetwork
from ctx_runtime.segmenting import plan_segments
from tests.fixtures.adaptive import FFN, HEADS, HIDDEN, LAYERS, LONGEST, SEGMENTS, VOCABULARY, tiny_model

ROW = {"min_length": 1, "max_length": 9, "subnetwork": {"layers": 1}, "metric": "f1", "value": 0.5, "examples": 3}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "model"


def load(folder: Path, task="token-classification", *, changes=None, **kept) -> Source:
    save_model(tiny_model(task, **changes or {}), folder, **kept)
    return load_source(folder)


def test_a_token_classifier_is_described(folder: Path) -> None:
    source = load(folder)
    assert (source.name, source.task, source.record.kind) == ("model", "token-classification", "adaptive")
    assert [(spec.name, spec.role) for spec in source.inputs] == [("input_ids", "tokens"), ("attention_mask", "mask")]
    assert [(spec.name, spec.shape, spec.fusion) for spec in source.outputs] == [
        ("logits", ("batch", "length", 3), "concat")
    ]
    assert (source.max_length, source.tokenizer, source.steps, source.quality) == (LONGEST, None, (), ())
    assert source.fusion is None
    assert source.example(1, [40])["input_ids"].max() < VOCABULARY


def test_a_retriever_gives_rows_of_unit_length(folder: Path) -> None:
    (spec,) = load(folder, "feature-extraction", changes={"type_vocab_size": 2}).outputs
    assert (spec.name, spec.shape, spec.normalized) == ("sentence_embedding", ("batch", HIDDEN), True)
    assert [spec.name for spec in load_source(folder).inputs][-1] == "token_type_ids"


def test_a_part_runs_in_pytorch(folder: Path) -> None:
    source = load(folder)
    arrays = source.example(1, [9])
    whole, part = source.run(arrays), source.run(arrays, SubNetwork(layers=1, heads=2))
    assert not np.allclose(whole["logits"], part["logits"])
    np.testing.assert_array_equal(
        source.run(arrays, source.resolve(SubNetwork(layers=LAYERS)))["logits"], whole["logits"]
    )


@pytest.mark.parametrize(
    ("part", "resolved"),
    [
        (None, None),
        (SubNetwork(), None),
        (SubNetwork(layers=LAYERS, heads=HEADS, ffn=FFN), None),
        (SubNetwork(layers=1, heads=HEADS), SubNetwork(layers=1)),
        (SubNetwork(position_resolution=RopeScaling(kind="ntk", factor=1)), None),
        (
            SubNetwork(ffn=1, position_resolution=RopeScaling(kind="linear", factor=2)),
            SubNetwork(ffn=1, position_resolution=RopeScaling(kind="linear", factor=2)),
        ),
    ],
)
def test_one_name_for_one_network(folder: Path, part: SubNetwork | None, resolved: SubNetwork | None) -> None:
    assert load(folder).resolve(part) == resolved


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (SubNetwork(layers=LAYERS + 1), "model has no sub-network l4: layers is 1..3 in this model, not 4"),
        (SubNetwork(heads=9), "heads is 1..4 in this model, not 9"),
        (SubNetwork(ffn=41), "ffn is 1..40 in this model, not 41"),
    ],
)
def test_a_part_that_the_model_does_not_have(folder: Path, part: SubNetwork, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        load(folder).resolve(part)


def test_learned_positions_have_no_resolution(folder: Path) -> None:
    source = load(folder, changes={"positions": "learned"})
    with pytest.raises(SourceError, match="the positions of this model are learned"):
        source.resolve(SubNetwork(position_resolution=RopeScaling(kind="yarn", factor=2)))


def test_the_rotation_is_that_of_the_resolution(folder: Path) -> None:
    source = load(folder)
    assert source.rotation(None) is source.rotation(SubNetwork(layers=1)) is None
    linear = source.rotation(SubNetwork(position_resolution=RopeScaling(kind="linear", factor=2)))
    yarn = source.rotation(SubNetwork(position_resolution=RopeScaling(kind="yarn", factor=2)))
    assert linear is not None and linear.inv_freq[0] == 0.5 and linear.scale == 1
    assert yarn is not None and yarn.scale == pytest.approx(0.1 * np.log(2) + 1)


def test_policy_and_quality_come_along(folder: Path) -> None:
    scaled = OwnSubNetwork(layers=1, position_resolution=OwnScaling("yarn", 2))
    policy = LengthPolicy(((8, scaled), (LONGEST, OwnSubNetwork(layers=LAYERS))))
    source = load(
        folder, policy=policy, quality=[ROW, ROW | {"subnetwork": {}, "loss": 0.2, "latency_ms": 1.5, "f1": 1}]
    )
    yarn = SubNetwork(layers=1, position_resolution=RopeScaling(kind="yarn", factor=2))
    assert source.steps == ((8, yarn), (LONGEST, None))
    known = {"min_length": 1, "max_length": 9, "metric": "f1", "value": 0.5, "examples": 3}
    assert source.quality == (
        QualityRecord(**known, subnetwork=SubNetwork(layers=1), loss=None, latency_ms=None),
        QualityRecord(**known, subnetwork=None, loss=0.2, latency_ms=1.5),
    )


@pytest.mark.parametrize(
    "row",
    [{}, ROW | {"value": "good"}, ROW | {"subnetwork": {"layers": 0}}, ROW | {"min_length": 10}, ROW | {"examples": 0}],
)
def test_a_row_of_quality_that_is_not_sound(folder: Path, row: dict[str, object]) -> None:
    with pytest.raises(SourceError, match=r"a row of model/quality.json is not sound"):
        load(folder, quality=[row])


def test_another_task_is_refused(folder: Path) -> None:
    load(folder)
    with pytest.raises(SourceError, match="model is a model for token-classification, not fill-mask"):
        load_source(folder, task="fill-mask")


def test_a_damaged_checkpoint_is_refused(folder: Path) -> None:
    load(folder)
    settings = json.loads((folder / "config.json").read_text())
    settings["network"]["num_layers"] += 1
    (folder / "config.json").write_text(json.dumps(settings))
    with pytest.raises(SourceError, match=r"model\.safetensors has no tensor"):
        load_source(folder)
    (folder / "tokenizer.json").write_text("{}")
    (folder / "model.safetensors").unlink()
    with pytest.raises(SourceError, match=r"model\.safetensors can't be read"):
        load_source(folder)


def test_a_tokenizer_that_is_none(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text("{}")
    with pytest.raises(SourceError, match=r"tokenizer\.json is no tokenizer"):
        load(folder, tokenizer=tmp_path / "t.json")


@pytest.mark.parametrize("task", ["token-classification", "text-classification", "feature-extraction"])
@pytest.mark.parametrize("length", [17, 31, 32, 33, 80])
def test_the_parts_of_a_fusion_give_the_answers_of_the_whole(folder: Path, task: str, length: int) -> None:
    source = load(folder, task, changes={"segment": SEGMENTS})
    fusion, arrays = source.fusion, source.example(1, [length])
    assert fusion is not None and (fusion.window, fusion.overlap, source.max_length) == (16, 4, 16)
    plan = plan_segments(length, window=16, overlap=4, prefix=fusion.record.prefix, suffix=fusion.record.suffix)
    windows = [{"input_ids": arrays["input_ids"][:, segment.indices]} for segment in plan.segments]
    graphs = FusionGraphs(fusion.segment.run, fusion.fuse.run, fusion.finish.run if fusion.finish else None)
    found, expected = run_fused(plan, windows, graphs, source.outputs), source.run(arrays)
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, atol=1e-5)


@pytest.mark.parametrize(
    ("task", "states"), [("token-classification", ["summary", "hidden"]), ("feature-extraction", ["summary"])]
)
def test_states_are_passed_on_where_outputs_by_token_need_them(folder: Path, task: str, states: list[str]) -> None:
    fusion = load(folder, task, changes={"segment": SEGMENTS}).fusion
    assert fusion is not None
    assert [spec.name for spec in fusion.segment.outputs] == states
    assert (fusion.finish is None) == (fusion.record.finish is None) == ("hidden" not in states)
    assert (fusion.record.hidden_size, fusion.record.summaries) == (HIDDEN, 1 + SEGMENTS.summaries)
