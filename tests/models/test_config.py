from __future__ import annotations

import json

import pytest

from ctx_models.config import AdaptiveConfig, SegmentConfig
from ctx_models.errors import ModelError
from tests.fixtures.adaptive import SEGMENTS, tiny_config


@pytest.mark.parametrize("segment", [None, SEGMENTS])
def test_a_configuration_reads_back_from_json(segment):
    config = tiny_config(segment=segment)
    assert AdaptiveConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_layers": 0}, "num_layers is a whole number of at least 1, not 0"),
        ({"ffn_size": 1.5}, "ffn_size is a whole number of at least 1, not 1.5"),
        ({"norm": "both"}, "norm is one of pre, post, not 'both'"),
        ({"architecture": "cnn"}, "architecture is one of encoder, decoder, seq2seq, not 'cnn'"),
        ({"head_size": 7}, "rotary positions need an even head_size, not 7"),
        ({"dropout": 1.0}, "dropout is a probability below 1, not 1.0"),
        ({"num_decoder_layers": 1}, "num_decoder_layers is for encoder-decoders, which need at least 1"),
        ({"architecture": "seq2seq"}, "num_decoder_layers is for encoder-decoders, which need at least 1"),
        ({"segment": SegmentConfig(65)}, "segments of 65 tokens are longer than max_length, 64"),
        ({"segment": SEGMENTS, "architecture": "decoder"}, "a causal model has no segments"),
    ],
)
def test_an_impossible_shape_is_refused(changes, message):
    with pytest.raises(ModelError) as error:
        tiny_config(**changes)
    assert str(error.value) == message


def test_segments_need_tokens_of_their_own():
    with pytest.raises(ModelError, match="have no tokens of their own"):
        SegmentConfig(length=8, overlap=6, prefix=1, suffix=1)


@pytest.mark.parametrize("values", [{}, {"architecture": "encoder", "vocab_size": 5, "depth": 3}])
def test_json_that_is_no_configuration_is_refused(values):
    with pytest.raises(ModelError, match="the configuration is not sound"):
        AdaptiveConfig.from_json(values)
