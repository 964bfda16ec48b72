import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from ctx_models.config import AdaptiveConfig
from ctx_models.data import IGNORED
from ctx_models.errors import ModelError
from ctx_models.heads import TaskModel
from ctx_models.retrieval import (
    RetrievalTask,
    SyntheticWording,
    TextWording,
    documents,
    effective_context_length,
    retrieval_dataset,
    wording_for,
)

VALUES = 8
WORDING = SyntheticWording(vocab_size=40, values=VALUES)
TASKS = [RetrievalTask.named(name) for name in ("passkey", "multi-key", "variable-tracking")]


def solve(tokens):
    """The value ids that the questions of a synthetic document ask for, by following its assignments."""
    gives = {key: source for mark, key, source in zip(tokens, tokens[1:], tokens[2:], strict=False) if mark == 1}
    answers = []
    for mark, key in itertools.pairwise(tokens):
        if mark == 2:
            answer = key
            while answer in gives:
                answer = gives[answer]
            answers.append(answer)
    return answers


@given(task=st.sampled_from(TASKS), length=st.integers(24, 200), seed=st.integers(0, 99), causal=st.booleans())
def test_the_label_is_the_value_that_the_document_gives(task, length, seed, causal):
    (document,) = documents(task, WORDING, length=length, count=1, seed=seed, causal=causal)
    (tokens,) = document.texts
    labels = [label for label in document.labels if label != IGNORED]
    assert len(tokens) == len(document.labels) == length
    assert solve(tokens) == [label if causal else label + 3 + VALUES for label in labels]
    asked = next(place for place, label in enumerate(document.labels) if label != IGNORED)
    assert tokens[asked - 1] == 2
    assert not causal or tokens[asked + 1] == document.labels[asked]


def test_every_question_is_labelled():
    (document,) = documents(RetrievalTask(4, 1, 3), SyntheticWording(60, 16), length=80, count=1, seed=0)
    labels = [label for label in document.labels if label != IGNORED]
    assert len(labels) == 3 and [answer - 3 - 16 for answer in solve(document.texts[0])] == labels


def test_the_seed_decides():
    first, again, other = (list(documents(TASKS[1], WORDING, length=64, count=3, seed=seed)) for seed in (1, 1, 2))
    assert first == again and first != other


def test_facts_stand_anywhere():
    places = [
        list(document.texts[0]).index(1) for document in documents(TASKS[0], WORDING, length=64, count=200, seed=0)
    ]
    assert min(places) < 6 and max(places) > 53


def tokenizer():
    words = ["[UNK]", "[CLS]", "[SEP]", ".", "?", "one", "two"]
    words += ["the", "word", "of", "is", "what", "it", "alice", "bruno", "clara", "david", "grass", "green", "sky"]
    words += ["blue", "sun", "yellow", "here", "we", "go"]
    ids = {word: index for index, word in enumerate(words)}
    made = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    return made


def test_text_is_framed_and_asks_in_words():
    wording = TextWording(tokenizer(), ("one", "two"))
    (document,) = documents(RetrievalTask(), wording, length=40, count=1, seed=0)
    text = tokenizer().decode(document.texts[0], skip_special_tokens=False)
    (label,) = (label for label in document.labels if label != IGNORED)
    assert text.startswith("[CLS]") and text.endswith("? it is [SEP]") and len(document.texts[0]) == 40
    assert f"is {wording.labels[label]} ." in text and f"is {wording.labels[1 - label]} ." not in text
    assert document.labels.index(label) == 38


def test_too_short_or_too_many_is_one_line():
    with pytest.raises(ModelError, match="do not fit"):
        list(documents(TASKS[1], WORDING, length=10, count=1, seed=0))
    with pytest.raises(ModelError, match="9 keys"):
        list(documents(RetrievalTask(keys=9), WORDING, length=100, count=1, seed=0))
    with pytest.raises(ModelError, match="no filler"):
        SyntheticWording(vocab_size=19, values=8)


def test_documents_for_a_model_are_of_its_task_and_labels():
    config = AdaptiveConfig("encoder", 40, hidden_size=8, num_layers=1, num_heads=1, head_size=8, ffn_size=8)
    model = TaskModel(config, "token-classification", [str(value) for value in range(VALUES)])
    data = retrieval_dataset(model, wording_for(model, None), TASKS[0], lengths=(16, 32), count=2, seed=0)
    assert [example.length for example in data.features] == [16, 16, 32, 32] and data.labels == model.labels
    with pytest.raises(ModelError, match="same token"):
        wording_for(TaskModel(replace(config, architecture="decoder"), "text-generation"), tokenizer())
    with pytest.raises(ModelError, match="symbol"):
        wording_for(TaskModel(config, "feature-extraction"), None)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ({64: 1.0, 128: 0.9, 256: 0.8}, 128),
        ({128: 0.9, 64: 0.5, 256: 0.99}, None),
        ({64: 0.95, 128: 0.8, 256: 0.95}, 64),
        ({64: 0.85}, None),
        ({}, None),
    ],
)
def test_effective_context_length_needs_every_shorter_length_above_the_bar(scores, expected):
    assert effective_context_length(scores, 0.85) == expected
