from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import transformers
from tokenizers import Tokenizer
from torch import nn

from ctx_export.sources import load_source
from ctx_runtime.errors import SourceError
from tests.fixtures.models import (
    HEADS,
    HIDDEN,
    TASKS,
    Smoother,
    tokenizer,
    words,
    write_json,
    write_model,
    write_pooling,
)

CLS, PAD, SEP = 0, 1, 2
SPECIAL = 5


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model("bert", "feature-extraction", tmp_path_factory.mktemp("models") / "tiny-bert")


@pytest.fixture
def folder(bert: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(bert, tmp_path / "copy"))


def specs(described) -> dict[str, tuple]:
    return {spec.name: spec.shape for spec in described}


def edit(path: Path, **values: object) -> None:
    write_json(path, json.loads(path.read_text()) | values)


OUTPUTS = {
    "feature-extraction": {"last_hidden_state": ("batch", "length", HIDDEN)},
    "text-classification": {"logits": ("batch", 3)},
    "token-classification": {"logits": ("batch", "length", 3)},
    "question-answering": {"start_logits": ("batch", "length"), "end_logits": ("batch", "length")},
    "fill-mask": {"logits": ("batch", "length", len(words()))},
}


@pytest.mark.parametrize("task", TASKS)
def test_the_task_is_inferred_and_gives_transformers_own_answers(task, tmp_path):
    source = load_source(write_model("bert", task, tmp_path))
    assert source.task == task
    assert specs(source.outputs) == OUTPUTS[task]
    assert all(spec.fusion == ("concat" if "length" in spec.shape else "mean") for spec in source.outputs)
    arrays = source.example(3, [9, 1, 4])
    own = getattr(transformers, HEADS[task]).from_pretrained(tmp_path).eval()
    with torch.no_grad():
        expected = own(**{name: torch.from_numpy(array) for name, array in arrays.items()})
    for name, answer in source.run(arrays).items():
        np.testing.assert_array_equal(answer, expected[name].numpy())


def test_a_source_describes_its_inputs(bert):
    source = load_source(bert)
    assert [(spec.name, spec.role, spec.pad, spec.dtype) for spec in source.inputs] == [
        ("input_ids", "tokens", PAD, "int64"),
        ("attention_mask", "mask", 0, "int64"),
        ("token_type_ids", "segment-ids", 0, "int64"),
    ]
    assert (source.name, source.via, source.record.kind) == ("tiny-bert", "transformers", "huggingface")
    assert (source.special_tokens.prefix, source.special_tokens.suffix) == ((CLS,), (SEP,))
    assert source.tokenizer == bert / "tokenizer.json"


@pytest.mark.parametrize(
    ("kind", "longest"), [("bert", 64), ("roberta", 64), ("mpnet", 64), ("deberta-v2", None), ("modernbert", 64)]
)
def test_the_longest_input_is_what_the_positions_allow(kind, longest, tmp_path):
    source = load_source(write_model(kind, "feature-extraction", tmp_path))
    assert source.max_length == longest
    assert "token_type_ids" not in specs(source.inputs) or kind == "bert"
    if kind in ("roberta", "mpnet"):
        source.run(source.example(1, [64]))
        with pytest.raises(SourceError, match="fails for input_ids"):
            source.run(source.example(1, [65]))


class TestExamples:
    def test_rows_are_framed_padded_and_masked(self, bert):
        arrays = load_source(bert).example(3, [6, 2, 1])
        ids, mask = arrays["input_ids"], arrays["attention_mask"]
        assert {array.shape for array in arrays.values()} == {(3, 6)}
        assert mask.tolist() == [[1] * 6, [1, 1, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0]]
        assert (ids[0, 0], ids[0, 5]) == (CLS, SEP)
        assert ids[1].tolist() == [CLS, SEP, PAD, PAD, PAD, PAD]
        assert ids[2, 0] >= SPECIAL and set(ids[2, 1:]) == {PAD}

    def test_the_tokens_between_are_ordinary_ones_all_over_the_vocabulary(self, bert):
        ids = load_source(bert).example(4, [512] * 4)["input_ids"][:, 1:-1]
        assert set(np.unique(ids)) == set(range(SPECIAL, len(words())))

    def test_a_seed_gives_the_same_example_again(self, bert):
        source = load_source(bert)
        first, again, other = (source.example(1, [9], seed=seed)["input_ids"].tolist() for seed in (3, 3, 4))
        assert first == again != other

    def test_every_row_needs_a_length(self, bert):
        with pytest.raises(ValueError, match="2 rows need 2 lengths"):
            load_source(bert).example(2, [5])


class TestTokenizers:
    def test_padding_and_truncation_in_the_file_do_not_count(self, folder):
        padded = tokenizer()
        padded.enable_padding(length=16)
        padded.enable_truncation(3)
        padded.save(str(folder / "tokenizer.json"))
        source = load_source(folder)
        assert (source.special_tokens.prefix, source.special_tokens.suffix) == ((CLS,), (SEP,))

    def test_a_vocabulary_is_converted_to_a_tokenizer_file(self, folder):
        (folder / "tokenizer.json").unlink()
        (folder / "tokenizer_config.json").unlink()
        (folder / "vocab.txt").write_text("\n".join(words()))
        source = load_source(folder)
        assert source.tokenizer is not None
        assert Tokenizer.from_file(str(source.tokenizer)).encode("the sea").ids == tokenizer().encode("the sea").ids
        assert source.special_tokens.prefix == (CLS,)

    def test_a_model_may_have_none(self, folder):
        (folder / "tokenizer.json").unlink()
        (folder / "tokenizer_config.json").unlink()
        source = load_source(folder)
        assert source.tokenizer is None
        assert source.special_tokens.prefix == source.special_tokens.suffix == ()
        assert [spec.name for spec in source.inputs] == ["input_ids", "attention_mask", "token_type_ids"]
        assert source.inputs[0].pad == PAD
        source.run(source.example(2, [3, 8]))

    def test_a_damaged_one_is_refused(self, folder):
        (folder / "tokenizer.json").write_text("{}")
        with pytest.raises(SourceError, match="the tokenizer of copy can't be read"):
            load_source(folder)


class TestSentenceEmbeddings:
    @pytest.mark.parametrize("normalize", [True, False])
    @pytest.mark.parametrize(
        ("config", "pool"),
        [
            ({"pooling_mode_mean_tokens": True}, lambda states: states.mean(0)),
            ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, lambda states: states[0]),
            ({"pooling_mode": "max"}, lambda states: states.max(0)),
            ({"pooling_mode": ["mean"]}, lambda states: states.mean(0)),
        ],
    )
    def test_they_pool_the_real_tokens_of_each_row(self, config, pool, normalize, folder):
        source = load_source(write_pooling(folder, normalize=normalize, **config))
        assert specs(source.outputs)["sentence_embedding"] == ("batch", HIDDEN)
        assert [spec.normalized for spec in source.outputs] == [False, normalize]
        lengths = [7, 2, 5]
        answers = source.run(source.example(3, lengths))
        for states, row, length in zip(
            answers["last_hidden_state"], answers["sentence_embedding"], lengths, strict=True
        ):
            expected = pool(states[:length])
            expected = expected / np.linalg.norm(expected) if normalize else expected
            np.testing.assert_allclose(row, expected, atol=1e-6)

    def test_the_encoder_may_stand_in_a_folder_of_its_own(self, bert, tmp_path):
        shutil.copytree(bert, tmp_path / "st" / "0_Transformer")
        root = write_pooling(tmp_path / "st", pooling_mode_mean_tokens=True)
        modules = json.loads((root / "modules.json").read_text())
        modules[0]["path"] = "0_Transformer"
        write_json(root / "modules.json", modules)
        source = load_source(root)
        assert source.name == "st" and len(source.outputs) == 2

    @pytest.mark.parametrize(
        ("config", "message"),
        [
            ({"pooling_mode_lasttoken": True}, "pooling mode lasttoken in 1_Pooling is not supported"),
            ({"pooling_mode": ["mean", "max"]}, r"pooling mode mean \+ max"),
            ({"pooling_mode": 3}, "pooling mode 3 in 1_Pooling is not supported"),
        ],
    )
    def test_other_poolings_are_refused(self, config, message, folder):
        with pytest.raises(SourceError, match=message):
            load_source(write_pooling(folder, **config))

    @pytest.mark.parametrize("path", ["/etc", "../1_Pooling"])
    def test_modules_stand_in_the_folder(self, path, folder):
        modules = [{"type": "x.Transformer", "path": ""}, {"type": "x.Pooling", "path": path}]
        write_json(folder / "modules.json", modules)
        with pytest.raises(SourceError, match=f"copy refers to {path}, outside of itself"):
            load_source(folder)

    def test_other_modules_are_refused(self, folder):
        modules = [{"type": f"sentence_transformers.models.{kind}", "path": ""} for kind in ("Transformer", "Dense")]
        write_json(folder / "modules.json", modules)
        with pytest.raises(SourceError, match="copy is made of Transformer, Dense"):
            load_source(folder)


class TestDigest:
    def test_it_is_of_the_content_not_of_the_place(self, bert, folder):
        assert load_source(folder).record == load_source(bert).record

    @pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
    def test_it_covers_weights_configuration_and_tokenizer(self, name, bert, folder):
        if name == "model.safetensors":
            weights = safetensors.torch.load_file(folder / name)
            weights["embeddings.LayerNorm.bias"][0] += 1
            safetensors.torch.save_file(weights, folder / name, metadata={"format": "pt"})
        else:
            (folder / name).write_text((folder / name).read_text() + " ")
        assert load_source(folder).record != load_source(bert).record

    def test_of_a_module_it_covers_weights_attributes_and_code(self):
        def digest(module: nn.Module) -> str:
            return load_source(module, example_inputs={"features": torch.zeros(1, 6, 8)}).record.sha256

        torch.manual_seed(0)
        first, other = Smoother(), Smoother()
        assert digest(first) != digest(other)
        other.load_state_dict(first.state_dict())
        assert digest(first) == digest(other)
        other.convolve.padding_mode = "reflect"
        assert digest(first) != digest(other)
        typed = {
            factor: type("Typed", (nn.Module,), {"forward": eval(f"lambda self, features: features * {factor}")})  # noqa: S307
            for factor in (2, 3)
        }
        assert digest(typed[2]()) != digest(typed[3]())


def test_a_model_is_found_in_the_local_cache_by_its_id(bert, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    cached = tmp_path / "models--someone--tiny"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("0" * 40)
    shutil.copytree(bert, cached / "snapshots" / ("0" * 40))
    source = load_source("someone/tiny")
    assert source.name == "someone/tiny"
    assert source.record == load_source(bert).record


def test_loading_prints_nothing(bert, capfd):
    load_source(bert)
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""


def test_a_pickle_needs_trust(folder):
    torch.save(safetensors.torch.load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    expected = load_source(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(SourceError, match=r"pytorch_model\.bin is a pickle, which can run code") as refusal:
        load_source(folder)
    assert "--allow-pickle" in str(refusal.value.hint)
    arrays = expected.example(1, [6])
    answer = load_source(folder, allow_pickle=True).run(arrays)
    np.testing.assert_array_equal(answer["last_hidden_state"], expected.run(arrays)["last_hidden_state"])


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


DAMAGES = {
    "no config.json": (lambda root: (root / "config.json").unlink(), "it has no config.json"),
    "broken config": (lambda root: (root / "config.json").write_text("{"), "config.json is not a JSON file"),
    "config is a list": (lambda root: (root / "config.json").write_text("[]"), r"config\.json holds no JSON object"),
    "nested config": (lambda root: (root / "config.json").write_text("[" * 100_000), "is not a JSON file"),
    "architecture is a list": (lambda root: edit(root / "config.json", model_type=["bert"]), "knows no architecture"),
    "architectures is no list": (lambda root: edit(root / "config.json", architectures="A"), "names no architecture"),
    "quantized": (
        lambda root: edit(root / "config.json", quantization_config={"quant_method": "fp8"}),
        "the weights in copy are quantized",
    ),
    "impossible value": (
        lambda root: edit(root / "config.json", hidden_size="wide"),
        r"config\.json is not sound|can't be loaded",
    ),
    "unknown architecture": (
        lambda root: edit(root / "config.json", model_type="hydra", auto_map={"AutoConfig": "code.Config"}),
        "knows no architecture 'hydra'",
    ),
    "no architectures": (lambda root: edit(root / "config.json", architectures=None), "names no architecture"),
    "no task": (
        lambda root: edit(root / "config.json", architectures=["BertForPreTraining"]),
        "BertForPreTraining, which says no task",
    ),
    "another head": (
        lambda root: edit(root / "config.json", architectures=["BertLMHeadModel"]),
        "BertLMHeadModel, which says no task",
    ),
    "decoder": (lambda root: transformers.T5Config().save_pretrained(root), r"\(t5\) has a decoder"),
    "no text": (
        lambda root: transformers.ViTModel(
            transformers.ViTConfig(hidden_size=8, num_attention_heads=1, num_hidden_layers=1, intermediate_size=8)
        ).save_pretrained(root),
        "ViTModel takes no input_ids",
    ),
    "no weights": (lambda root: (root / "model.safetensors").unlink(), r"has no model\.safetensors"),
    "cut weights": (lambda root: cut(root / "model.safetensors"), "can't be loaded"),
    "no safetensors": (lambda root: (root / "model.safetensors").write_bytes(b"PK" * 40), "can't be loaded"),
    "another size": (
        lambda root: edit(root / "config.json", intermediate_size=40),
        r"weights of another size than its config\.json for encoder\.layer\.0",
    ),
    "more layers": (lambda root: edit(root / "config.json", num_hidden_layers=2), "has no weights for encoder.layer.1"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_folder_is_refused_in_one_line(damage, folder, capfd):
    harm, message = DAMAGES[damage]
    harm(folder)
    capfd.readouterr()
    with pytest.raises(SourceError, match=message) as refusal:
        load_source(folder)
    assert "\n" not in str(refusal.value)
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""


class TestShards:
    def shard(self, folder: Path, **entries: object) -> None:
        weights = folder / "model.safetensors"
        names = safetensors.torch.load_file(weights)
        weights.rename(folder / "part-1.safetensors")
        places = dict.fromkeys(names, "part-1.safetensors") | entries
        write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": places})

    def test_weights_may_be_in_files_that_an_index_names(self, bert, folder):
        self.shard(folder)
        sharded, whole = load_source(folder), load_source(bert)
        arrays = whole.example(1, [6])
        np.testing.assert_array_equal(sharded.run(arrays)["last_hidden_state"], whole.run(arrays)["last_hidden_state"])
        assert sharded.record != whole.record

    @pytest.mark.parametrize(
        ("place", "message"),
        [
            ("part-2.safetensors", r"no file .*part-2\.safetensors"),
            (3, "no file .*3"),
            ("../part-1.safetensors", r"copy refers to \.\./part-1\.safetensors, outside of itself"),
            ("/etc/passwd", "copy refers to /etc/passwd, outside of itself"),
        ],
    )
    def test_an_index_names_files_of_the_folder(self, place, message, folder):
        self.shard(folder, more=place)
        with pytest.raises(SourceError, match=message):
            load_source(folder)

    @pytest.mark.parametrize("index", ["[]", "{}", '{"weight_map": null}', '{"weight_map": ["a"]}'])
    def test_an_index_of_nothing_is_refused(self, index, folder):
        self.shard(folder)
        (folder / "model.safetensors.index.json").write_text(index)
        with pytest.raises(SourceError, match=r"index\.json (holds no JSON object|has no weight_map)"):
            load_source(folder)


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("nowhere/at/all", {}, "no folder nowhere/at/all"),
        ("n" * 5000, {}, "'nnn.*' is no path: .*File name too long"),
        ("~nobody-of-this-name/model", {}, "is no path: "),
        ("someone/absent", {}, "neither a folder nor a model in the local Hugging Face cache"),
        (__file__, {}, "is not a model's folder"),
        ("weights.pt", {}, "weights.pt is a pickle"),
        ("absent.safetensors", {}, "holds weights only"),
        ("absent.safetensors", {"factory": "a:b"}, r"no file absent\.safetensors"),
        (".", {"factory": "a:b"}, "go with a .safetensors checkpoint or a module"),
        (".", {"task": "singing"}, "unknown task 'singing'"),
        (Smoother(), {}, "a module needs example_inputs"),
    ],
)
def test_what_is_no_model_is_refused(model, options, message):
    with pytest.raises(SourceError, match=message) as refusal:
        load_source(model, **options)
    assert refusal.value.hint


def test_a_task_needs_an_architecture_and_weights_for_it(bert, folder):
    with pytest.raises(SourceError, match=r"no weights for classifier\..*: it is no model for token-classification"):
        load_source(bert, task="token-classification")
    transformers.DPRConfig().save_pretrained(folder)
    with pytest.raises(SourceError, match="transformers has no dpr for fill-mask"):
        load_source(folder, task="fill-mask")
