from __future__ import annotations

import dataclasses

import pytest
import torch

from ctx_models.encoder import LengthAdaptiveEncoder
from ctx_models.segments import plan_windows
from ctx_models.subnetwork import SubNetwork
from tests.fixtures.adaptive import HIDDEN, SEGMENTS, randomise, tiny_config, tokens

LENGTHS = [50, 16, 33, 5]
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def encoder(**changes) -> LengthAdaptiveEncoder:
    return randomise(LengthAdaptiveEncoder(tiny_config(segment=dataclasses.replace(SEGMENTS, **changes))))


@pytest.mark.parametrize("part", [SubNetwork(), SubNetwork(2, 2, 20)])
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_a_long_document_alone_is_the_document_in_a_batch(layers, part):
    model, (ids, mask) = encoder(layers=layers), tokens(LENGTHS, padded=60)
    together = model(ids, mask, subnetwork=part)
    documents = model.encode_documents(ids, mask, subnetwork=part)
    for row, length in enumerate(LENGTHS):
        alone = ids[row : row + 1, :length]
        torch.testing.assert_close(model(alone, subnetwork=part)[0], together[row, :length], **CLOSE)
        torch.testing.assert_close(model.encode_documents(alone, subnetwork=part)[0], documents[row], **CLOSE)


def test_segment_fuse_and_finish_are_the_whole():
    model, (ids, _) = encoder(), tokens([50])
    windows = plan_windows(torch.tensor([50]), 50, SEGMENTS)
    hidden, summary = model.segment(windows.take(ids))
    assert summary.shape == (len(hidden), 1 + SEGMENTS.summaries, HIDDEN)
    context = model.fuse(summary[None])
    torch.testing.assert_close(windows.restore(model.finish(hidden, context[0])), model(ids), **CLOSE)
    torch.testing.assert_close(model.document(summary[None], context), model.encode_documents(ids), **CLOSE)


def test_segments_that_are_not_there_change_nothing():
    model = encoder()
    summary, present = torch.randn(2, 5, 4, HIDDEN), torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    context = model.fuse(summary, present)
    assert context.isfinite().all()
    torch.testing.assert_close(context[1:, :3], model.fuse(summary[1:, :3]), **CLOSE)
    documents = model.document(summary, context, present)
    torch.testing.assert_close(documents[1:], model.document(summary[1:, :3], context[1:, :3]), **CLOSE)


def change_in(model: LengthAdaptiveEncoder, changed: int) -> list[float]:
    """By how much each segment's context moves when the summary of one of 6 segments does."""
    summary = torch.randn(1, 6, 4, HIDDEN, generator=torch.Generator().manual_seed(1))
    other = summary.clone()
    other[:, changed] *= -1
    return (model.fuse(other) - model.fuse(summary)).abs().amax((0, 2, 3)).tolist()


def test_a_banded_level_reaches_the_neighbours_and_the_next_level_every_segment():
    one_level = change_in(encoder(layers=1, band=1), changed=1)
    assert [change > 1e-4 for change in one_level] == [True, True, True, False, False, False]
    assert all(change > 1e-4 for change in change_in(encoder(layers=2, band=1), changed=1))


def test_the_order_of_segments_matters():
    model, summary = encoder(), torch.randn(1, 3, 4, HIDDEN)
    swapped = model.fuse(summary.flip(1)).flip(1)
    assert (swapped - model.fuse(summary)).abs().max() > 1e-3


def test_tokens_see_other_segments_through_an_open_fusion_only():
    model, (ids, _) = encoder(overlap=0, prefix=0, suffix=0), tokens([64])
    other = ids.clone()
    other[:, 3] = other[:, 3] % 50 + 1
    assert (model(ids)[:, -1] - model(other)[:, -1]).abs().max() > 1e-4
    model.fusion.close()
    torch.testing.assert_close(model(ids)[:, 16:], model(other)[:, 16:], rtol=0, atol=0)
    assert (model(ids)[:, :16] - model(other)[:, :16]).abs().max() > 1e-3


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_a_closed_fusion_leaves_what_a_model_without_segments_gives(pooling):
    model = randomise(LengthAdaptiveEncoder(tiny_config(segment=SEGMENTS, pooling=pooling)))
    model.fusion.close()
    plain = LengthAdaptiveEncoder(tiny_config(pooling=pooling)).eval()
    plain.load_state_dict({name: model.state_dict()[name] for name in plain.state_dict()})
    ids, mask = tokens([16, 9])
    torch.testing.assert_close(model(ids, mask), plain(ids, mask), rtol=0, atol=0)
    torch.testing.assert_close(model.encode_documents(ids, mask), plain.encode_documents(ids, mask), rtol=0, atol=0)


def test_gradients_reach_every_parameter():
    model, (ids, mask) = encoder(), tokens(LENGTHS)
    (model(ids, mask).square().mean() + model.encode_documents(ids, mask).square().mean()).backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
