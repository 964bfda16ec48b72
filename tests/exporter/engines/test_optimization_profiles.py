from types import SimpleNamespace

import pytest

from ctx_export.engines import Bounds, ProfileShapes
from ctx_export.engines.optimization_profiles import add_profiles, check_profiles, profiles_of
from ctx_runtime.errors import EngineError
from ctx_runtime.manifest import InputSpec
from ctx_runtime.resource_profile import BatchRange, ResourceProfile
from tests.fixtures.engines import request_for

TOKENS = InputSpec(name="ids", dtype="int64", shape=("batch", "length"), pad=0, role="tokens")
FEATURES = InputSpec(name="features", dtype="float32", shape=("batch", "length", 8), pad=0.0)


def plans():
    return ResourceProfile.model_validate(
        {
            "name": "x",
            "batch": BatchRange(min=2, opt=2, max=4),
            "buckets": [{"max_length": 16, "opt_length": 9}, {"max_length": 48}],
            "overflow": {"overlap": 0},
        }
    ).resolve()


def test_a_profile_goes_from_one_row_of_the_fewest_tokens_to_the_most():
    first, second = profiles_of(plans(), (TOKENS, FEATURES))
    assert (first.bucket, first.index, second.bucket, second.index) == ("ctx-16", 0, "ctx-48", 1)
    assert first.inputs["ids"] == Bounds(min=(1, 1), opt=(2, 9), max=(4, 16))
    assert second.inputs["features"] == Bounds(min=(1, 17, 8), opt=(2, 48, 8), max=(4, 48, 8))


def test_the_first_profile_of_an_engine_starts_at_one_token():
    (only,) = profiles_of(plans()[1:], (TOKENS,))
    assert only.inputs["ids"] == Bounds(min=(1, 1), opt=(2, 48), max=(4, 48))


@pytest.mark.parametrize("shapes", [((2, 1), (1, 1), (4, 4)), ((1, 1), (1, 5), (4, 4)), ((5, 1), (5, 1), (4, 4))])
def test_a_min_above_its_opt_or_an_opt_above_its_max_is_refused(shapes):
    low, opt, high = shapes
    profile = ProfileShapes(bucket="ctx-16", index=0, inputs={"ids": Bounds(min=low, opt=opt, max=high)})
    with pytest.raises(EngineError, match="ctx-16: input 'ids' has min") as refused:
        check_profiles([profile])
    assert "min <= opt <= max" in refused.value.hint


class Network:
    """A network whose inputs have these shapes, and a builder and config that give profiles this index."""

    def __init__(self, index=0, **inputs):
        self.tensors = [SimpleNamespace(name=name, shape=shape) for name, shape in inputs.items()]
        self.num_inputs = len(inputs)
        self.index = index
        self.set = []

    def get_input(self, index):
        return self.tensors[index]

    def create_optimization_profile(self):
        return SimpleNamespace(set_shape=lambda name, *shapes: self.set.append((name, *shapes)))

    def add_optimization_profile(self, profile):
        return self.index


BOUNDS = Bounds(min=(1, 1), opt=(1, 8), max=(4, 16))


def add(network, tmp_path, *names):
    add_profiles(None, network, network, network, request_for(tmp_path / "g.onnx", dict.fromkeys(names, BOUNDS)))


def test_every_dynamic_input_gets_its_shapes(tmp_path):
    network = Network(x=(-1, -1), mask=(-1, 4))
    add(network, tmp_path, "mask", "x")
    assert network.set == [(name, BOUNDS.min, BOUNDS.opt, BOUNDS.max) for name in ("mask", "x")]


@pytest.mark.parametrize("names", [("x", "typo"), ("x",), ("mask",)])
def test_a_name_too_many_or_missing_is_refused(tmp_path, names):
    with pytest.raises(EngineError, match="dynamic inputs are mask, x"):
        add(Network(x=(-1, -1), mask=(-1, -1)), tmp_path, *names)


@pytest.mark.parametrize("index", [-1, 1])
def test_an_index_other_than_the_buckets_is_refused(tmp_path, index):
    with pytest.raises(EngineError, match=f"the index {index}, expected 0"):
        add(Network(x=(-1, -1), index=index), tmp_path, "x")
