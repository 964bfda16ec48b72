from __future__ import annotations

import pytest
import torch

from ctx_models.errors import ModelError
from ctx_models.heads import TaskModel
from ctx_models.subnetwork import SubNetwork
from tests.fixtures.adaptive import HIDDEN, LABELS, SEGMENTS, VOCABULARY, tiny_config, tiny_model, tokens

OUTPUTS = {
    "token-classification": ("logits", (2, 40, 3)),
    "text-classification": ("logits", (2, 3)),
    "feature-extraction": ("sentence_embedding", (2, HIDDEN)),
    "text-generation": ("logits", (2, 40, VOCABULARY)),
}


@pytest.mark.parametrize("part", [None, SubNetwork(1, 2, 20)])
@pytest.mark.parametrize("task", OUTPUTS)
def test_a_task_has_its_output(task, part):
    name, shape = OUTPUTS[task]
    model, (ids, mask) = tiny_model(task, segment=None if task == "text-generation" else SEGMENTS), tokens([40, 9])
    outputs = model(ids, mask, subnetwork=part)
    assert {name: output.shape for name, output in outputs.items()} == {name: shape}
    short = model(ids[1:, :9], subnetwork=part)[name]
    together = outputs[name][1:] if model.reads_documents else outputs[name][1:, :9]
    torch.testing.assert_close(short, together, rtol=1e-4, atol=1e-4)


def test_an_embedding_has_the_length_one_and_is_the_mean_of_the_states():
    model, (ids, mask) = tiny_model("feature-extraction"), tokens([12, 7])
    states = model.backbone(ids, mask)[1, :7].mean(0)
    torch.testing.assert_close(model(ids, mask)["sentence_embedding"][1], states / states.norm())


def test_generated_logits_share_the_weights_of_the_embeddings():
    model, (ids, _) = tiny_model("text-generation"), tokens([12])
    expected = model.backbone(ids) @ model.backbone.embeddings.tokens.weight.T
    torch.testing.assert_close(model(ids)["logits"], expected)


@pytest.mark.parametrize(
    ("architecture", "task", "labels", "message"),
    [
        ("encoder", "translation", (), "unknown task 'translation'"),
        ("decoder", "token-classification", LABELS, "token-classification needs the architecture encoder, not decoder"),
        ("encoder", "text-generation", (), "text-generation needs the architecture decoder, not encoder"),
        ("encoder", "text-classification", (), "text-classification needs labels, each once, not []"),
        ("encoder", "token-classification", ("O", "O"), "needs labels, each once, not ['O', 'O']"),
        ("encoder", "feature-extraction", LABELS, "feature-extraction has no labels, not ['O', 'B', 'I']"),
    ],
)
def test_a_task_that_does_not_fit_is_refused(architecture, task, labels, message):
    with pytest.raises(ModelError) as error:
        TaskModel(tiny_config(architecture=architecture), task, labels)
    assert message in str(error.value)
