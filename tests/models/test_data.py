import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ctx_models.data import (
    IGNORED,
    Dataset,
    Features,
    LabelledText,
    PlainText,
    RetrievalPair,
    collate,
    encode_examples,
    label_set,
    plan_batches,
    read_examples,
)
from ctx_models.errors import ModelError
from tests.fixtures.models import tokenizer, words

CONLL_2003 = "-DOCSTART- -X- -X- O\n\nab NNP B-NP B-LOC\nc VB B-VP O\n\n\nd . O O\n"
WNUT = "@ab\tB-person\nc d\tI-person\n\t\nx\tO\n"


@pytest.fixture
def write(tmp_path):
    def write(text, name="data.txt"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def encode(examples, task="token-classification", **settings):
    return encode_examples(
        examples, tokenizer(), **{"task": task, "labels": label_set(examples), "max_length": 64, "pad_id": 1} | settings
    )


def jsonl(*values):
    return "\n".join(json.dumps(value) for value in values) + "\n"


def test_conll_columns_are_words_and_last_tags(write):
    first, second = read_examples(write(CONLL_2003), "token-classification")
    assert (first.words, first.tags) == (("ab", "c"), ("B-LOC", "O")) and second.words == ("d",)
    assert first.place.endswith("data.txt:3") and first.place_of(1).endswith("data.txt:4")


def test_tabs_part_columns_so_that_a_word_may_hold_a_blank(write):
    first, second = read_examples(write(WNUT), "token-classification")
    assert first.words == ("@ab", "c d") and second.tags == ("O",)


def test_windows_line_ends_and_a_byte_order_mark_are_no_part_of_the_data(write):
    (example,) = read_examples(write("\ufeffab B-X\r\nc O\r\n"), "token-classification")
    assert (example.words, example.tags) == (("ab", "c"), ("B-X", "O"))


def test_jsonl_of_every_task(write):
    tagged = read_examples(
        write(jsonl({"tokens": ["a", "b"], "tags": ["O", "B-X"]}), "a.jsonl"), "token-classification"
    )
    assert tagged[0].tags == ("O", "B-X")
    texts = write(jsonl({"text": "a b", "label": "good"}, {"text": "c", "label": "bad"}), "b.jsonl")
    assert [example.label for example in read_examples(texts, "text-classification")] == ["good", "bad"]
    assert isinstance(read_examples(texts, "text-generation")[1], PlainText)
    pairs = write(jsonl({"query": "a", "positive": "b"}, {"query": "a", "positive": "b", "negative": "c"}), "c.jsonl")
    assert [pair.negative for pair in read_examples(pairs, "feature-extraction")] == [None, "c"]


@pytest.mark.parametrize(
    ("text", "name", "task", "message"),
    [
        ("", "d.txt", "token-classification", "d.txt: holds no example"),
        ("-DOCSTART- O\n\n", "d.txt", "token-classification", "d.txt: holds no example"),
        ("a O\nb\n", "d.txt", "token-classification", "d.txt:2: one column"),
        ("a O\nb X O\n", "d.txt", "token-classification", "d.txt:2: 3 columns, the lines before have 2"),
        ("a\tO\nb\t \n", "d.txt", "token-classification", "d.txt:2: the tag is empty"),
        (b"a O\nb\xff O\n", "d.txt", "token-classification", "d.txt:2: is not UTF-8"),
        ("a O\n", "d.txt", "text-classification", "d.txt: text-classification is learned from JSONL"),
        ("\n", "d.jsonl", "text-classification", "d.jsonl: holds no example"),
        ('{"text": "a", "label": "x"}\n{"text"\n', "d.jsonl", "text-classification", "d.jsonl:2: is no JSON"),
        ("[]\n", "d.jsonl", "text-classification", "d.jsonl:1: expected a JSON object"),
        (jsonl({"text": "a"}), "d.jsonl", "text-classification", "d.jsonl:1: 'label' is missing"),
        (jsonl({"text": "a", "label": 3}), "d.jsonl", "text-classification", "d.jsonl:1: 'label' is no text"),
        (jsonl({"tokens": ["a"], "tags": []}), "d.jsonl", "token-classification", "d.jsonl:1: 'tags' is no list"),
        (jsonl({"tokens": ["a"], "tags": ["O", "O"]}), "d.jsonl", "token-classification", "1 tokens and 2 tags"),
        (jsonl({"query": "a"}), "d.jsonl", "feature-extraction", "d.jsonl:1: 'positive' is missing"),
    ],
)
def test_a_bad_file_is_one_line_that_names_the_place(write, text, name, task, message):
    with pytest.raises(ModelError) as caught:
        read_examples(write(text, name), task)
    assert message in str(caught.value) and "\n" not in str(caught.value) and caught.value.hint


def test_an_absent_file_is_one_line(tmp_path):
    with pytest.raises(ModelError, match=r"absent\.txt: No such file"):
        read_examples(tmp_path / "absent.txt", "token-classification")


def test_labels_begin_with_outside(write):
    assert label_set(read_examples(write(CONLL_2003 + "\ne X X I-LOC\n"), "token-classification")) == (
        "O", "B-LOC", "I-LOC",
    )  # fmt: skip


@pytest.mark.parametrize("tag", ["B_LOC", "LOC", "0", "B-"])
def test_a_tag_that_marks_no_span_among_those_that_do_is_refused(write, tag):
    with pytest.raises(ModelError, match=r"data\.txt:3: .* is no tag of a span"):
        label_set(read_examples(write(f"a O\nb B-LOC\nc {tag}\n"), "token-classification"))


def test_tags_that_mark_no_spans_at_all_are_labels(write):
    assert label_set(read_examples(write("a NN\nb VB\n"), "token-classification")) == ("NN", "VB")


def test_a_tag_goes_to_the_first_subword(write):
    data = encode(read_examples(write("ab B-LOC\nc O\n"), "token-classification"))
    ids = tuple(words().index(word) for word in ("[CLS]", "a", "##b", "c", "[SEP]"))
    assert data.features == (Features((ids,), (IGNORED, 1, IGNORED, 0, IGNORED)),) and data.cut == 0


def test_texts_of_the_other_tasks():
    letters = {word: index for index, word in enumerate(words())}
    (classified,) = encode([LabelledText("a b", "good", "d:1")], "text-classification").features
    assert classified == Features(((letters["[CLS]"], letters["a"], letters["b"], letters["[SEP]"]),), (0,))
    (pair,) = encode([RetrievalPair("a", "b", None, "d:1")], "feature-extraction", labels=()).features
    assert len(pair.texts) == 2 and pair.labels == ()
    (plain,) = encode([PlainText("a b", "d:1")], "text-generation", labels=()).features
    assert plain.labels == (*plain.texts[0][1:], IGNORED)


def test_what_is_longer_than_the_model_takes_is_cut_and_counted(write):
    data = encode(read_examples(write("a O\n" * 9 + "\nb O\n"), "token-classification"), max_length=6)
    assert data.cut == 1 and data.features[0].length == 6
    assert data.features[0].texts[0][-1] == words().index("[SEP]") and data.features[0].labels[-1] == IGNORED


def test_a_model_with_segments_takes_the_whole_of_a_text(write):
    data = encode(read_examples(write("a O\n" * 900), "token-classification"), max_length=None)
    assert data.cut == 0 and data.features[0].length == 902


def test_a_tag_unseen_in_training_is_one_line_that_names_the_place(write):
    with pytest.raises(ModelError, match=r"data\.txt:4: the label 'O' was not seen in training") as caught:
        encode(read_examples(write(CONLL_2003), "token-classification"), labels=("B-LOC",))
    assert caught.value.hint == "the labels are B-LOC"


def test_a_sentence_without_any_token_is_refused(write):
    with pytest.raises(ModelError, match=r"data\.txt:1: the tokenizer makes no token"):
        encode(read_examples(write("\x01 O\n"), "token-classification"))


def test_the_same_data_has_the_same_hash_and_other_data_another(write):
    examples = read_examples(write(CONLL_2003), "token-classification")
    assert encode(examples).sha256 == encode(examples).sha256 != encode(examples[:1]).sha256


LENGTHS = st.lists(st.tuples(st.integers(1, 40), st.integers(2, 3)), min_size=1, max_size=60)


@given(LENGTHS, st.integers(1, 90), st.integers(0, 9))
def test_batches_hold_every_example_once_within_the_budget(sizes, budget, seed):
    features = [Features(((0,) * length,) * texts) for length, texts in sizes]
    batches = plan_batches(features, budget, seed=seed)
    assert sorted(index for batch in batches for index in batch) == list(range(len(features)))
    assert len(batches) == len(plan_batches(features, budget))
    for batch in batches:
        longest = max(features[index].length for index in batch)
        assert len(batch) == 1 or len(batch) * longest <= budget
        assert len({len(features[index].texts) for index in batch}) == 1


def test_the_order_of_batches_comes_from_the_seed():
    features = [Features(((0,) * length,)) for length in range(1, 30)]
    assert (
        plan_batches(features, 60, seed=1) == plan_batches(features, 60, seed=1) != plan_batches(features, 60, seed=2)
    )


def test_batches_of_similar_lengths_hold_little_padding():
    chance = torch.Generator().manual_seed(0)
    lengths = torch.empty(2000).log_normal_(3.0, 0.6, generator=chance).int().clamp(2, 200).tolist()
    features = [Features(((0,) * length,)) for length in lengths]
    padded = [len(batch) * max(lengths[index] for index in batch) for batch in plan_batches(features, 1024, seed=0)]
    assert sum(padded) < 1.05 * sum(lengths)


def test_a_batch_is_padded_to_its_longest_and_masked():
    features = (Features(((5, 6, 7),), (IGNORED, 0, 1)), Features(((8,),), (1,)), Features(((9, 9, 9),), (0, 0, 0)))
    data = Dataset("token-classification", ("O", "X"), features, pad_id=1)
    batch = collate(data, [0, 1])
    assert batch.input_ids[0].tolist() == [[5, 6, 7], [8, 1, 1]]
    assert batch.attention_mask[0].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch.labels.tolist() == [[IGNORED, 0, 1], [1, IGNORED, IGNORED]]
    assert collate(data, [0, 2]).attention_mask == (None,)


def test_labels_of_texts_and_pairs():
    classified = Dataset(
        "text-classification", ("a", "b"), (Features(((5,),), (1,)), Features(((6,),), (0,))), pad_id=0
    )
    assert collate(classified, [0, 1]).labels.tolist() == [1, 0]
    pairs = Dataset("feature-extraction", (), (Features(((5,), (6, 7))), Features(((6,), (8,)))), pad_id=0)
    batch = collate(pairs, [0, 1])
    assert [ids.tolist() for ids in batch.input_ids] == [[[5], [6]], [[6, 7], [8, 0]]]
    assert batch.attention_mask[0] is None and batch.labels.shape == (2, 0)
