import pytest
from tokenizers import Tokenizer as Model
from tokenizers import decoders, models, pre_tokenizers

from ctx_runtime.bundle import Bundle
from ctx_runtime.text import Tokenizer
from tests.fixtures.bundles import rehash, write_tiny_bundle

WORDS = {"<s>": 0, "\u2581Hello": 1, "\u2581world": 2, "!": 3}
BYTES = {character: index for index, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}


@pytest.fixture
def tokenizer(tmp_path):
    """Makes the tokenizer of a bundle from one of the package."""

    def make(model, decoder):
        root = write_tiny_bundle(tmp_path / "bundle", tokenizer=True)
        written = Model(model)
        written.decoder = decoder
        written.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        written.add_special_tokens(["<s>"])
        written.save(str(root / "tokenizer/tokenizer.json"))
        rehash(root)
        return Tokenizer(Bundle.open(root))

    return make


@pytest.mark.parametrize(
    ("before", "text"), [([], "world! Hello"), ([0], "world! Hello"), ([1], " world! Hello"), ([0, 1], " world! Hello")]
)
def test_a_stream_goes_on_from_the_text_before_it(tokenizer, before, text):
    stream = tokenizer(models.WordLevel(WORDS, unk_token="!"), decoders.Metaspace()).stream(before)
    assert "".join(stream(token) for token in (2, 3, 1, 0)) == text


@pytest.mark.parametrize("before", ["", "x", "漢"])
def test_a_stream_gives_whole_characters_also_behind_half_of_one(tokenizer, before):
    bytes_of = tokenizer(models.BPE(BYTES, []), decoders.ByteLevel())
    stream = bytes_of.stream(bytes_of.ids(before)[:2])
    assert [stream(token) for token in bytes_of.ids("aß")] == ["a", "", "ß"]
