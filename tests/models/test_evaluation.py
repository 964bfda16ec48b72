import json
import math

import pytest
import torch

from ctx_models.config import AdaptiveConfig
from ctx_models.data import IGNORED, Dataset, Features
from ctx_models.errors import ModelError
from ctx_models.evaluation import QualityTable, evaluate, length_buckets
from ctx_models.heads import TaskModel
from ctx_models.subnetwork import SubNetwork

TAGS = ("O", "B-PER", "I-PER", "B-LOC")


def make(task, labels=(), architecture="encoder", vocab=12):
    """A model of 2 layers with random weights."""
    torch.manual_seed(0)
    config = AdaptiveConfig(
        architecture, vocab, hidden_size=16, num_layers=2, num_heads=2, head_size=8, ffn_size=16, max_length=64
    )
    return TaskModel(config, task, labels)


def echo(labels):
    """A tagger whose answer for a token is the label of that number: what it says can be written down by hand."""
    model = make("token-classification", labels, vocab=len(labels))
    model.backbone.forward = lambda ids, mask=None, types=None, subnetwork=None: torch.eye(len(labels), 16)[ids]
    model.classifier.weight.data = torch.eye(len(labels), 16) * 20
    return model


def sentence(predicted, truth):
    return Features(
        (tuple(TAGS.index(tag) for tag in predicted.split()),), tuple(TAGS.index(tag) for tag in truth.split())
    )


def test_entities_count_as_exact_spans_by_length():
    data = Dataset(
        "token-classification",
        TAGS,
        (
            sentence("B-PER I-PER", "B-PER I-PER"),
            sentence("B-PER O", "B-PER I-PER"),
            sentence("O B-LOC O O", "O B-LOC O B-PER"),
        ),
        pad_id=0,
    )
    table = evaluate(echo(TAGS), data, length_edges=(2,))
    short, long = table.rows
    assert (short.min_length, short.max_length, short.examples) == (1, 2, 2)
    assert (short.metric, short.precision, short.recall, short.f1) == ("f1", 0.5, 0.5, 0.5)
    assert (long.precision, long.recall, long.accuracy) == (1.0, 0.5, 0.75)
    (all_lengths,) = table.overall
    assert all_lengths.value == pytest.approx(4 / 7) and all_lengths.accuracy == pytest.approx(6 / 8)


def test_classes_have_accuracy_and_means_over_classes():
    model = make("text-classification", ("no", "yes"))
    rows = [(1, 2, 3), (4, 5), (6, 7, 8, 9), (2, 4)]
    with torch.inference_mode():
        said = [int(model.eval()(torch.tensor([row]))["logits"].argmax()) for row in rows]
    truth = [said[0], said[1], said[2], 1 - said[3]]
    features = tuple(Features((row,), (label,)) for row, label in zip(rows, truth, strict=True))
    row = evaluate(model, Dataset("text-classification", model.labels, features, 0)).overall[0]
    assert (row.metric, row.value, row.examples) == ("accuracy", 0.75, 4) and row.loss > 0


def test_ignored_tokens_and_padding_count_for_nothing():
    model = make("token-classification", ("a", "b"))
    some = Features(((1, 2, 3),), (0, IGNORED, 1))
    longer = Features(((4, 5, 6, 7, 8),), (1, 1, IGNORED, IGNORED, 0))
    data = Dataset("token-classification", model.labels, (some, longer), 0)
    together, alone = evaluate(model, data, batch_tokens=64), evaluate(model, data, batch_tokens=1)
    assert together.overall[0].loss == pytest.approx(alone.overall[0].loss, abs=1e-5)
    logits = torch.cat([model.eval()(torch.tensor(one.texts))["logits"][0] for one in (some, longer)])
    labels = torch.tensor([*some.labels, *longer.labels])
    assert together.overall[0].loss == pytest.approx(torch.nn.functional.cross_entropy(logits, labels).item(), abs=1e-5)


def test_perplexity_of_a_causal_model_by_length():
    model = make("text-generation", architecture="decoder")
    texts = [(1, 2, 3, 4), (5, 6, 7, 8, 9, 10, 11, 1)]
    features = tuple(Features((text,), (*text[1:], IGNORED)) for text in texts)
    table = evaluate(model, Dataset("text-generation", (), features, 0), length_edges=(4, 8))
    for row, text in zip(table.rows, texts, strict=True):
        logits = model.eval()(torch.tensor([text]))["logits"][0, :-1]
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor(text[1:])).item()
        assert row.perplexity == pytest.approx(math.exp(loss), rel=1e-4) and row.metric == "accuracy"


def test_a_query_ranks_its_own_positive_among_all():
    model = make("feature-extraction")
    pairs = [((1, 2), (1, 2)), ((3, 4), (3, 4, 4)), ((5, 6, 7), (8, 9))]
    data = Dataset("feature-extraction", (), tuple(Features(pair) for pair in pairs), 0)
    with torch.inference_mode():
        queries, positives = (
            torch.cat([model.eval()(torch.tensor([pair[side]]))["sentence_embedding"] for pair in pairs])
            for side in (0, 1)
        )
    scores = queries @ positives.T
    ranks = [1 + int((row > row[index]).sum()) for index, row in enumerate(scores)]
    (row,) = evaluate(model, data, batch_tokens=4).overall
    assert row.mrr == pytest.approx(sum(1 / rank for rank in ranks) / 3) and row.value == row.mrr
    assert row.recall_at_1 == ranks.count(1) / 3


def test_a_model_that_says_the_same_of_everything_finds_nothing():
    model = make("feature-extraction")
    for parameter in model.parameters():
        parameter.data.zero_()
    data = Dataset("feature-extraction", (), tuple(Features(((index,), (index,))) for index in range(4)), 0)
    assert evaluate(model, data).overall[0].recall_at_1 == 0


def test_sub_networks_stand_side_by_side_and_the_mode_is_kept():
    model = make("token-classification", ("a", "b")).train()
    data = Dataset("token-classification", model.labels, (Features(((1, 2, 3),), (0, 1, 1)),), 0)
    told = []
    parts = (SubNetwork(), SubNetwork(layers=1, heads=1))
    table = evaluate(model, data, subnetworks=parts, on_progress=lambda *done: told.append(done))
    assert tuple(row.subnetwork for row in table.rows) == parts and table.rows[0].loss != table.rows[1].loss
    assert told == [(1, 2), (2, 2)] and model.training


def test_json_there_and_back():
    model = make("token-classification", ("a", "b"))
    data = Dataset("token-classification", model.labels, (Features(((1, 2, 3),), (0, 1, 1)),), 0)
    table = evaluate(model, data, subnetworks=(SubNetwork.parse("l1-yarn2"),))
    text = json.dumps(table.to_json(), allow_nan=False)
    assert QualityTable.from_json(json.loads(text)) == table
    with pytest.raises(ModelError, match="not sound"):
        QualityTable.from_json({"task": "text-generation", "rows": [{"min_length": 1}], "overall": []})


@pytest.mark.parametrize(
    ("edges", "longest", "expected"),
    [
        ((), 7, [(1, 7)]),
        ((4,), 7, [(1, 4), (5, 7)]),
        ((4, 8), 7, [(1, 4), (5, 8)]),
    ],
)
def test_buckets_cover_every_length(edges, longest, expected):
    assert length_buckets(edges, longest) == expected


@pytest.mark.parametrize(("edges", "longest"), [((8, 4), 9), ((0,), 9), ((4, 4), 9), ((4,), 0)])
def test_impossible_buckets_are_one_line(edges, longest):
    with pytest.raises(ModelError):
        length_buckets(edges, longest)
