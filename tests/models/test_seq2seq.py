from __future__ import annotations

import pytest
import torch
from torch import nn

from ctx_models.errors import ModelError
from ctx_models.seq2seq import LengthAdaptiveSeq2Seq
from ctx_models.subnetwork import SubNetwork
from tests.fixtures.adaptive import FFN, HIDDEN, SEGMENTS, VOCABULARY, randomise, tokens


def seq2seq(**settings) -> LengthAdaptiveSeq2Seq:
    common = {"vocab_size": VOCABULARY, "max_length": 64, "layer_norm_eps": 1e-5}
    return randomise(LengthAdaptiveSeq2Seq(HIDDEN, 4, 2, 3, FFN, 0.0, **common | settings))


def copy_attention(theirs: nn.MultiheadAttention, ours: nn.Module) -> None:
    theirs.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.key.weight, ours.value.weight]))
    theirs.in_proj_bias.copy_(torch.cat([ours.query.bias, ours.key.bias, ours.value.bias]))
    theirs.out_proj.weight.copy_(ours.output.weight.T)
    theirs.out_proj.bias.copy_(ours.output.bias)


def copy_layer(theirs: nn.Module, ours: nn.Module) -> None:
    copy_attention(theirs.self_attn, ours.attention)
    residuals = [ours.attention_residual, ours.ffn_residual]
    if hasattr(theirs, "multihead_attn"):
        copy_attention(theirs.multihead_attn, ours.cross_attention)
        residuals.insert(1, ours.cross_residual)
    for index, residual in enumerate(residuals, start=1):
        getattr(theirs, f"norm{index}").load_state_dict(residual.norm.state_dict())
    theirs.linear1.load_state_dict(ours.ffn.up.state_dict())
    theirs.linear2.weight.copy_(ours.ffn.down.weight.T)
    theirs.linear2.bias.copy_(ours.ffn.down.bias)


def reference(model: LengthAdaptiveSeq2Seq) -> nn.Transformer:
    """PyTorch's Transformer with the same weights."""
    theirs = nn.Transformer(
        HIDDEN, 4, 2, 3, FFN, 0.0, activation="gelu", batch_first=True, norm_first=model.config.norm == "pre"
    )
    with torch.no_grad():
        for side, stack in ((theirs.encoder, model.encoder.stack), (theirs.decoder, model.decoder)):
            for their_layer, layer in zip(side.layers, stack.layers, strict=True):
                copy_layer(their_layer, layer)
            if stack.norm is None:
                side.norm = None
            else:
                side.norm.load_state_dict(stack.norm.state_dict())
    return theirs.eval()


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_with_learned_positions_it_is_the_transformer_of_pytorch(norm):
    model, (ids, mask), (target, _) = seq2seq(positions="learned", norm=norm), tokens([9, 6]), tokens([7, 7])
    embed, padding = model.encoder.embeddings, mask == 0
    states = reference(model)(
        embed(ids),
        embed(target),
        tgt_mask=nn.Transformer.generate_square_subsequent_mask(7),
        tgt_is_causal=True,
        src_key_padding_mask=padding,
        memory_key_padding_mask=padding,
    )
    expected = states @ embed.tokens.weight.T
    torch.testing.assert_close(model(ids, target, mask), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("part", [SubNetwork(), SubNetwork(1, 2, 20), SubNetwork(layers=3)])
def test_what_is_written_depends_on_the_source_and_on_nothing_later(part):
    model, (ids, _), (target, _) = seq2seq(), tokens([9]), tokens([7])
    logits = model(ids, target, subnetwork=part)
    assert logits.shape == (1, 7, VOCABULARY)
    later, source = target.clone(), ids.clone()
    later[:, 4], source[:, 2] = later[:, 4] % 50 + 1, source[:, 2] % 50 + 1
    torch.testing.assert_close(model(ids, later, subnetwork=part)[:, :4], logits[:, :4], rtol=0, atol=0)
    assert (model(source, target, subnetwork=part) - logits).abs().amax((0, 2)).min() > 1e-3


def test_a_long_padded_source_is_read_in_segments():
    model = seq2seq(segment=SEGMENTS, max_length=16)
    (ids, mask), (target, _) = tokens([50, 20]), tokens([7, 7])
    alone = model(ids[1:, :20], target[1:])
    torch.testing.assert_close(model(ids, target, mask)[1:], alone, rtol=1e-4, atol=1e-4)


def test_a_model_of_the_same_configuration_takes_the_weights():
    model, (ids, _), (target, _) = seq2seq(segment=SEGMENTS), tokens([40]), tokens([7])
    again = LengthAdaptiveSeq2Seq.from_config(model.config).eval()
    again.load_state_dict(model.state_dict())
    torch.testing.assert_close(again(ids, target), model(ids, target), rtol=0, atol=0)


def test_unknown_settings_and_long_targets_are_refused():
    with pytest.raises(ModelError, match=r"no encoder-decoder with these settings: .*'depth'"):
        seq2seq(depth=3)
    with pytest.raises(ModelError, match="a target of 65 tokens is longer than the model takes, 64"):
        seq2seq()(tokens([5])[0], tokens([65])[0])
