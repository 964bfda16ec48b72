import math

import numpy as np
import pytest

from ctx_export.parity import BucketProof, merge, pad_to, plan_cases, prove_bucket
from ctx_runtime.manifest import InputSpec, OutputSpec, Tolerance
from ctx_runtime.parity import ParityReport, compare
from ctx_runtime.resource_profile import ResourceProfile

TOKENS = InputSpec(name="ids", dtype="int64", shape=("batch", "length"), pad=9, role="tokens")
MASK = InputSpec(name="mask", dtype="int64", shape=("batch", "length"), pad=0, role="mask")
HIDDEN = OutputSpec(name="hidden", dtype="float32", shape=("batch", "length", 2), fusion="concat")
POOLED = OutputSpec(name="pooled", dtype="float32", shape=("batch", 2), fusion="mean")
TOLERANCE = Tolerance(max_abs=1e-4, min_cosine=0.999)


def buckets(*ends, **settings):
    profile = {"name": "x", "buckets": [{"max_length": end} for end in ends], "overflow": {"overlap": 0}, **settings}
    return ResourceProfile.model_validate(profile).resolve()


def model(arrays):
    """Token outputs `(ids, 2 ids)`; their mean over real tokens."""
    ids, mask = arrays["ids"].astype(np.float32), arrays["mask"].astype(np.float32)
    hidden = np.stack([ids, 2 * ids], axis=-1)
    pooled = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
    return {"hidden": hidden, "pooled": pooled}


def example(lengths):
    longest = max(lengths)
    mask = (np.arange(longest) < np.asarray(lengths)[:, None]).astype(np.int64)
    ids = np.where(mask == 1, np.arange(longest) % 7 + 1, TOKENS.pad)
    return {"ids": ids, "mask": mask}


def prove(masked=model, unmasked=model, end=16):
    return prove_bucket(
        buckets(end)[0],
        inputs=(TOKENS, MASK),
        outputs=(HIDDEN, POOLED),
        tolerance=TOLERANCE,
        example=example,
        reference=model,
        runs={"masked": masked, "unmasked": unmasked},
    )


@pytest.mark.parametrize("bucket", buckets(1, 2, 32, 512, 8192), ids=lambda bucket: bucket.name)
def test_every_edge_is_planned_alone_and_in_a_padded_batch(bucket):
    cases = plan_cases(bucket, has_mask=True)
    alone = {case.lengths[0] for case in cases if case.form == "unmasked" and len(case.lengths) == 1}
    assert {bucket.min_length, bucket.max_length} <= alone
    assert {length in bucket for case in cases for length in case.lengths} == {True}
    assert any(case.form == "masked" and len(case.lengths) > 1 for case in cases)
    assert all(bucket.min_length <= case.padded_to <= bucket.max_length for case in cases)
    assert max(case.padded_to * len(case.lengths) for case in cases if case.form == "masked") < 8192


def test_a_bucket_of_batch_one_is_never_given_a_batch():
    bucket = buckets(16, batch={"max": 1})[0]
    assert {len(case.lengths) for case in plan_cases(bucket, has_mask=True)} == {1}


def test_a_model_without_a_mask_has_one_form():
    assert {case.form for case in plan_cases(buckets(16)[0], has_mask=False)} == {"masked"}


def test_equal_answers_pass_with_no_effect_of_padding_or_batch():
    proof = prove()
    assert all(case.passed and case.max_abs == 0 and case.top1 == 1 for case in proof.cases)
    assert (proof.padding_effect, proof.batch_effect) == (0, 0)


def test_a_difference_beyond_the_tolerance_fails_its_form_only():
    proof = prove(masked=lambda arrays: {name: array + 0.01 for name, array in model(arrays).items()})
    assert {case.form for case in proof.cases if not case.passed} == {"masked"}
    assert max(case.max_abs for case in proof.cases) == pytest.approx(0.01, rel=1e-3)


def test_padding_that_leaks_into_an_answer_is_measured():
    leaky = lambda arrays: model(arrays | {"mask": np.ones_like(arrays["mask"])})  # noqa: E731
    assert prove(masked=leaky).padding_effect > 1


def test_nan_is_a_failure():
    proof = prove(unmasked=lambda arrays: {name: array * np.nan for name, array in model(arrays).items()})
    failed = [case for case in proof.cases if case.form == "unmasked"]
    assert failed and all(not case.passed and math.isinf(case.max_abs) for case in failed)
    assert failed[0].to_json()["max_abs"] is None


def test_a_missing_position_is_a_failure():
    arrays = example([4])
    short = {name: array[:, :3] if name == "hidden" else array for name, array in model(arrays).items()}
    case = compare(
        model(arrays), short, outputs=(HIDDEN,), bucket="b", form="masked", lengths=[4], padded_to=4,
        tolerance=TOLERANCE,
    )  # fmt: skip
    assert not case.passed


def test_padded_positions_are_not_compared():
    arrays = pad_to(example([3]), (TOKENS, MASK), 5)
    assert arrays["ids"].tolist() == [[1, 2, 3, 9, 9]] and arrays["mask"].tolist() == [[1, 1, 1, 0, 0]]
    noisy = model(arrays)
    noisy["hidden"][:, 3:] = 1e9
    case = compare(
        model(arrays), noisy, outputs=(HIDDEN,), bucket="b", form="masked", lengths=[3], padded_to=5,
        tolerance=TOLERANCE,
    )  # fmt: skip
    assert case.passed and case.max_abs == 0


def test_golden_rows_keep_some_positions_of_a_long_input():
    golden = prove(end=512).golden
    assert golden["case0.in.ids"].shape == (1, 512)
    assert golden["case0.out.hidden"].shape == (1, 64, 2)
    positions = golden["case0.positions"]
    assert positions[0] == 0 and positions[-1] == 511
    np.testing.assert_array_equal(golden["case0.out.hidden"][0, :, 0], golden["case0.in.ids"][0, positions])
    assert golden["case1.lengths"].shape == (3,) and golden["case1.out.hidden"].shape == (3, 64, 2)
    assert "case0.positions" not in prove(end=64).golden


def test_a_proof_survives_the_cache(tmp_path):
    proof = prove()
    proof.save(tmp_path)
    loaded = BucketProof.load(tmp_path)
    assert loaded.cases == proof.cases and loaded.padding_effect == proof.padding_effect


def test_a_report_without_cases_or_with_a_bucket_that_did_not_run_has_not_passed():
    assert not ParityReport(cases=()).passed
    report = merge([prove()], {"ctx-32": "no kernel"})
    assert not report.passed and report.unverified == {"ctx-32": "no kernel"}
    assert merge([prove()], {}).passed
