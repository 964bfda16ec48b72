from __future__ import annotations

import pytest

from ctx_models.errors import ModelError
from ctx_models.subnetwork import LengthPolicy, RopeScaling, SubNetwork
from tests.fixtures.adaptive import FFN, HEAD_SIZE, HEADS, HIDDEN, LAYERS, SEGMENTS, tiny_config

HALF = SubNetwork(layers=2, heads=2, ffn=20)


@pytest.mark.parametrize("text", ["full", "l3", "h6", "f768", "l3-h6-f768", "l3-f768-yarn4", "linear1.5", "h1-ntk2"])
def test_the_text_of_a_sub_network_reads_back(text):
    assert str(SubNetwork.parse(text)) == text


def test_the_text_says_everything():
    assert SubNetwork.parse("l3-h6-f768-yarn4") == SubNetwork(3, 6, 768, RopeScaling("yarn", 4))


@pytest.mark.parametrize("text", ["", "l", "l3h6", "l3-l4", "x3", "l3-", "l1.5", "yarn", "yarn2-ntk2", "l-3"])
def test_other_texts_are_refused(text):
    with pytest.raises(ModelError, match="is no sub-network") as error:
        SubNetwork.parse(text)
    assert error.value.hint == "write full, or for example l3-h6-f768-yarn4"


def test_all_of_a_network_has_its_numbers():
    assert SubNetwork().resolve(tiny_config()) == SubNetwork(LAYERS, HEADS, FFN)
    assert HALF.resolve(tiny_config()) == HALF


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (SubNetwork(layers=4), "no sub-network l4: layers is 1..3 in this model, not 4"),
        (SubNetwork(heads=0), "no sub-network h0: heads is 1..4 in this model, not 0"),
        (SubNetwork(ffn=41), "no sub-network f41: ffn is 1..40 in this model, not 41"),
    ],
)
def test_what_a_model_does_not_have_is_refused(part, message):
    with pytest.raises(ModelError) as error:
        part.resolve(tiny_config())
    assert str(error.value) == message


def test_learned_positions_have_one_resolution():
    with pytest.raises(ModelError, match="the positions of this model are learned"):
        SubNetwork(position_resolution=RopeScaling("ntk", 2)).resolve(tiny_config(positions="learned"))


def test_operations_are_those_of_projections_feed_forward_and_attention():
    width = HEADS * HEAD_SIZE
    layer = 2 * (4 * HIDDEN * width + 2 * HIDDEN * FFN) + 2 * 2 * 10 * width
    assert SubNetwork().flops(tiny_config(), 10) == LAYERS * layer
    assert SubNetwork(heads=2, ffn=20).flops(tiny_config(), 10) == LAYERS * layer / 2
    assert SubNetwork(layers=1).flops(tiny_config(), 10) == layer


def test_in_segments_a_token_costs_the_same_in_every_longer_input():
    config = tiny_config(segment=SEGMENTS)
    at_segment = SubNetwork().flops(config, SEGMENTS.length)
    assert SubNetwork().flops(config, 8) < at_segment
    assert SubNetwork().flops(config, 4096) == at_segment


def test_a_policy_gives_the_first_step_that_is_long_enough():
    policy = LengthPolicy(((16, SubNetwork(layers=1)), (64, HALF), (512, SubNetwork())))
    assert [str(policy(length)) for length in (1, 16, 17, 64, 65, 512)] == [
        "l1", "l1", "l2-h2-f20", "l2-h2-f20", "full", "full",
    ]  # fmt: skip
    assert LengthPolicy.from_json(policy.to_json()) == policy


@pytest.mark.parametrize("length", [0, 513])
def test_a_length_beyond_a_policy_is_refused(length):
    with pytest.raises(ModelError, match=rf"the length policy covers 1\.\.512 tokens, not {length}"):
        LengthPolicy(((512, SubNetwork()),))(length)


@pytest.mark.parametrize("steps", [(), ((0, SubNetwork()),)])
def test_a_policy_without_lengths_is_refused(steps):
    with pytest.raises(ModelError, match="at least one step"):
        LengthPolicy(steps)


@pytest.mark.parametrize("later", [16, 8])
def test_steps_that_do_not_ascend_are_refused(later):
    with pytest.raises(ModelError, match=f"the steps of a length policy ascend: {later} follows 16"):
        LengthPolicy(((16, SubNetwork()), (later, SubNetwork())))


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([{"min_length": 1, "max_length": 16}, {"min_length": 20, "max_length": 64}], "leaves a hole at 17 tokens"),
        ([{"min_length": 1, "max_length": 16}, {"min_length": 16, "max_length": 64}], "overlaps at 16 tokens"),
        ([{"min_length": 5, "max_length": 16}], "leaves a hole at 1 tokens"),
        ([{"subnetwork": {}}], "a length policy's step is not sound: {'subnetwork': {}}"),
        ([{"max_length": "x"}], "a length policy's step is not sound"),
        ([{"max_length": 16, "subnetwork": {"depth": 1}}], "a sub-network is not sound: .*'depth'"),
        ([{"max_length": 16, "subnetwork": {"position_resolution": {"kind": "up", "factor": 2}}}], "linear, ntk, yarn"),
    ],
)
def test_ranges_with_a_hole_an_overlap_or_another_form_are_refused(entries, message):
    with pytest.raises(ModelError, match=message):
        LengthPolicy.from_json(entries)


@pytest.mark.parametrize("factor", [0.5, 2000, float("nan")])
def test_a_factor_outside_its_range_is_refused(factor):
    with pytest.raises(ModelError, match=r"1\.\.1024"):
        RopeScaling("linear", factor)
