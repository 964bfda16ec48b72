import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from tokenizers.decoders import DecodeStream

from ctx_runtime.generation.text_stream import TextStream

BYTES = {character: index for index, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}


def one_byte_a_token():
    """A tokenizer that splits text into bytes, so that every longer character is spread over tokens."""
    tokenizer = Tokenizer(models.BPE(BYTES, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def stream_of(text, stops=()):
    """The pieces that a stream gives for the bytes of `text`, and the stream."""
    tokenizer, decode = one_byte_a_token(), DecodeStream(skip_special_tokens=True)
    stream = TextStream(lambda token: decode.step(tokenizer, token) or "", stops)
    pieces = []
    for token in tokenizer.encode(text).ids:
        pieces.append(stream.push(token))
        if stream.stopped:
            break
    return [*pieces, stream.flush()], stream


@pytest.mark.parametrize("text", ["plain", "grüße", "漢字", "a🙂b", "e\u0301", "\n\t "])
def test_a_character_comes_whole_with_its_last_byte(text):
    pieces, _ = stream_of(text)
    assert "".join(pieces) == text and "\ufffd" not in "".join(pieces)
    assert [piece for piece in pieces if piece] == list(text)


def test_bytes_that_never_become_a_character_give_no_text():
    tokenizer, decode = one_byte_a_token(), DecodeStream(skip_special_tokens=True)
    stream = TextStream(lambda token: decode.step(tokenizer, token) or "", ())
    half = tokenizer.encode("漢").ids[:2]
    assert [stream.push(token) for token in half] == ["", ""] and stream.flush() == ""


@pytest.mark.parametrize(
    ("text", "stops", "kept"),
    [
        ("one two END three", ["END"], "one two "),
        ("END", ["END"], ""),
        ("ENEND", ["END"], "EN"),
        ("aab", ["ab"], "a"),
        ("no stop EN", ["END"], "no stop EN"),
        ("first B then A", ["A", "B"], "first "),
        ("abcd", ["bcd", "c"], "ab"),
        ("x漢y", ["漢"], "x"),
    ],
)
def test_text_ends_before_the_first_stop_string_across_tokens(text, stops, kept):
    pieces, stream = stream_of(text, stops)
    assert "".join(pieces) == kept and stream.stopped == (kept != text)


def test_what_may_begin_a_stop_string_is_held_back_and_then_given():
    pieces, _ = stream_of("aENb", ["END"])
    assert pieces == ["a", "", "", "ENb", ""]
