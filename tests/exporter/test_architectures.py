"""Every supported architecture and task, from a folder to a bundle that its parity proves at every bucket edge."""

from __future__ import annotations

import numpy as np
import pytest

from ctx_export.pipeline import build
from ctx_export.sources import load_source
from ctx_runtime import Runtime
from ctx_runtime.resource_profile import ResourceProfile
from tests.fixtures.models import ARCHITECTURES, LONGEST, TASKS, write_model

EDGE = 16
PROFILE = ResourceProfile.model_validate({"name": "tiny", "buckets": [{"max_length": EDGE}, {"max_length": LONGEST}]})


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_a_bundle_of_this_architecture_and_task_gives_pytorchs_answers(kind, task, tmp_path):
    folder = write_model(kind, task, tmp_path / kind)
    report = build(folder, PROFILE, tmp_path / "bundle", cache_dir=tmp_path / "cache")
    cases = report.parity.cases
    proven = {(case.form, length) for case in cases for length in case.lengths}
    assert {("unmasked", length) for length in (1, EDGE, EDGE + 1, LONGEST)} <= proven
    assert {("masked", length) for length in (1, EDGE, EDGE + 1, LONGEST)} <= proven
    assert all(case.passed for case in cases) and not report.parity.unverified
    assert report.parity.padding_effect < 1e-5 and report.parity.batch_effect < 1e-5
    source = load_source(folder)
    with Runtime.open(tmp_path / "bundle") as runtime:
        for length in (EDGE - 1, EDGE, EDGE + 1):
            arrays = source.example(1, [length], seed=length)
            (dispatch,) = (result := runtime.run(arrays)).dispatch
            assert dispatch.bucket == ("ctx-16" if length <= EDGE else "ctx-64")
            for name, expected in source.run(arrays).items():
                np.testing.assert_allclose(result.outputs[name], expected, atol=1e-5)
