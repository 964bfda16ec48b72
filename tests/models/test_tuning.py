import pytest
import torch

from ctx_models.config import AdaptiveConfig, SegmentConfig
from ctx_models.errors import ModelError
from ctx_models.evaluation import evaluate
from ctx_models.heads import TaskModel
from ctx_models.retrieval import RetrievalTask, retrieval_dataset, wording_for
from ctx_models.subnetwork import LengthPolicy, SubNetwork
from ctx_models.tuning import Search, SearchSpace, Trial, choose, in_segments, pareto_front, torch_latency, tune

FULL, HALF, ONE = SubNetwork(), SubNetwork(layers=2), SubNetwork(layers=1)


def trial(length, part, quality, latency_ms, segment=None):
    return Trial(length, part, segment or length, quality, latency_ms)


def make(segment=None):
    torch.manual_seed(0)
    config = AdaptiveConfig(
        "encoder", 40, hidden_size=16, num_layers=3, num_heads=2, head_size=8, ffn_size=16, segment=segment
    )
    return TaskModel(config, "token-classification", ("a", "b", "c"))


def documents(model, lengths=(16, 32)):
    return retrieval_dataset(model, wording_for(model, None), RetrievalTask(), lengths=lengths, count=6, seed=0)


def layers_times_length(subnetwork, length, segment):
    """A latency that can be worked out by hand."""
    return (subnetwork.layers or 3) * length * segment / 100


def search(tmp_path, trials=6, identity="this", examples=4):
    return Search(trials, examples=examples, seed=0, storage=tmp_path / "search.db", identity=identity)


def run(model, tmp_path, edges=(16, 32), latency=layers_times_length, **settings):
    space = SearchSpace(layers=(1, 2, 3), heads=(2,), ffn=(16,))
    data = documents(model, edges)
    return tune(model, data, edges=edges, space=space, latency=latency, search=search(tmp_path, **settings))


def test_every_bucket_starts_with_the_full_network(tmp_path):
    trials = run(make(), tmp_path)
    assert [one.max_length for one in trials] == [16] * 6 + [32] * 6
    assert trials[0].subnetwork == trials[6].subnetwork == FULL
    assert all(one.latency_ms == layers_times_length(one.subnetwork, one.max_length, one.segment) for one in trials)


def test_known_sub_networks_come_next(tmp_path):
    known = (SubNetwork(layers=2, ffn=7), SubNetwork.parse("l1-yarn3"))
    model = make()
    space = SearchSpace.of(model.config, known)
    assert space.ffn == (4, 7, 8, 12, 16) and space.resolutions[-1] == "yarn3"
    for trials in (2, 3):
        found = tune(
            model,
            documents(model, (16,)),
            edges=(16,),
            space=space,
            latency=layers_times_length,
            search=search(tmp_path, trials=trials),
            known=known,
        )
    assert [one.subnetwork for one in found] == [FULL, *known]


def test_quality_is_what_evaluate_says(tmp_path):
    model = make()
    trials = run(model, tmp_path, edges=(16,), trials=3, examples=6)
    data = documents(model, (16,))
    for one in trials:
        assert one.quality == evaluate(model, data, subnetworks=(one.subnetwork,)).overall[0].value


def test_a_search_goes_on_where_it_was_left(tmp_path):
    measured = []

    def counted(subnetwork, length, segment):
        measured.append((subnetwork, length, segment))
        return layers_times_length(subnetwork, length, segment)

    model = make()
    first = run(model, tmp_path, latency=counted, trials=2)
    more = run(model, tmp_path, latency=counted, trials=6)
    assert [one for one in more if one.max_length == 16][:2] == first[:2] and len(more) == 12
    assert len(set(measured)) == len(measured), "what was measured before is not measured again"
    assert run(model, tmp_path, latency=counted, trials=6) == more


def test_a_search_killed_in_its_first_trial_starts_with_the_full_network_again(tmp_path):
    def killed(subnetwork, length, segment):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(make(), tmp_path, edges=(16,), latency=killed)
    assert run(make(), tmp_path, edges=(16,), trials=2)[0].subnetwork == FULL


def test_storage_of_another_search_is_refused(tmp_path):
    run(make(), tmp_path, trials=1)
    with pytest.raises(ModelError, match="another model"):
        run(make(), tmp_path, trials=1, identity="other")
    (tmp_path / "search.db").write_text("no database at all" * 100)
    with pytest.raises(ModelError, match="can't be used"):
        run(make(), tmp_path, trials=1)


def test_models_with_segments_are_tried_in_segments(tmp_path):
    model = make(SegmentConfig(16))
    trials = run(model, tmp_path, edges=(16, 32), trials=8)
    assert {(one.max_length, one.segment) for one in trials} == {(16, 16), (32, 16), (32, 32)}
    assert next(one for one in trials if one.max_length == 32).segment == 16, "the full network as it was trained"


def test_segments_change_what_runs_and_come_back():
    model = make(SegmentConfig(16)).eval()
    for gate in (model.backbone.fusion.reader_gate, model.backbone.fusion.mixer_gate):
        torch.nn.init.ones_(gate)
    ids = torch.arange(32)[None]
    with torch.inference_mode():
        before = model(ids)["logits"]
        with in_segments(model, 32):
            assert not torch.allclose(model(ids)["logits"], before, atol=1e-3)
        assert torch.equal(model(ids)["logits"], before)


@pytest.mark.parametrize(
    ("edges", "message"),
    [((32, 16), "ascend"), ((), "ascend"), ((600,), "longer than the model takes"), ((8, 16), "no example of 1..8")],
)
def test_impossible_buckets_are_one_line(tmp_path, edges, message):
    model = make()
    space = SearchSpace.of(model.config)
    with pytest.raises(ModelError, match=message):
        tune(
            model,
            documents(model, (16,)),
            edges=edges,
            space=space,
            latency=layers_times_length,
            search=search(tmp_path),
        )


def test_the_space_holds_every_layer_and_head():
    space = SearchSpace.of(make().config)
    assert (space.layers, space.heads, space.ffn) == ((1, 2, 3), (1, 2), (4, 8, 12, 16))
    assert "yarn2" in space.resolutions


def test_the_front_holds_what_no_other_beats():
    slow, fast, beaten = trial(16, FULL, 0.9, 3), trial(16, ONE, 0.5, 1), trial(16, HALF, 0.4, 2)
    assert pareto_front([slow, beaten, fast]) == [fast, slow]


def test_the_fastest_above_the_floor_is_chosen():
    trials = [
        *(trial(16, FULL, 0.80, 3), trial(16, HALF, 0.79, 2), trial(16, ONE, 0.6, 1)),
        *(trial(32, FULL, 0.90, 6), trial(32, HALF, 0.70, 4)),
    ]
    assert choose(trials, floor=0.97) == LengthPolicy(((16, HALF), (32, FULL)))
    assert choose(trials, floor=0.70) == LengthPolicy(((16, ONE), (32, HALF)))


def test_the_longest_bucket_decides_how_long_segments_are():
    trials = [
        *(trial(16, FULL, 0.9, 1), trial(16, ONE, 0.9, 0.5)),
        *(trial(32, FULL, 0.9, 3), trial(32, HALF, 0.9, 2)),
        *(trial(64, FULL, 0.9, 9), trial(64, HALF, 0.9, 4, segment=32), trial(64, HALF, 0.5, 3, segment=16)),
    ]
    assert choose(trials, floor=1) == LengthPolicy(((16, ONE), (32, HALF)))


def test_latency_of_more_network_is_longer():
    torch.manual_seed(0)
    config = AdaptiveConfig("encoder", 40, hidden_size=64, num_layers=8, num_heads=2, head_size=32, ffn_size=256)
    latency = torch_latency(TaskModel(config, "token-classification", ("a", "b")).eval(), repeats=7)
    assert 0 < latency(ONE, 64, 64) < latency(FULL, 64, 64)
