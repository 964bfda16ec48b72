from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ctx_models.config import SegmentConfig
from ctx_models.segments import plan_windows
from ctx_runtime.segmenting import plan_segments


@st.composite
def cases(draw) -> tuple[SegmentConfig, list[int]]:
    prefix, suffix, own = draw(st.integers(0, 2)), draw(st.integers(0, 2)), draw(st.integers(1, 9))
    overlap = draw(st.integers(0, 5))
    config = SegmentConfig(prefix + suffix + own + overlap, overlap, prefix=prefix, suffix=suffix)
    return config, draw(st.lists(st.integers(1, 60), min_size=1, max_size=4))


def expected(length: int, config: SegmentConfig) -> tuple[list[list[int]], list[tuple[int, int]]]:
    """The windows that the runtime plans, and for each token its window and its place in it."""
    if length <= config.length:
        return [list(range(length))], [(0, place) for place in range(length)]
    plan = plan_segments(
        length, window=config.length, overlap=config.overlap, prefix=config.prefix, suffix=config.suffix
    )
    windows = [segment.indices.tolist() for segment in plan.segments]
    owners = np.zeros(length, int)
    for index, segment in enumerate(plan.segments):
        owners[config.prefix + segment.owned[0] : config.prefix + segment.owned[1]] = index
    owners[length - config.suffix :] = len(windows) - 1
    return windows, [(owner, windows[owner].index(token)) for token, owner in enumerate(owners.tolist())]


@settings(max_examples=150, deadline=None)
@given(cases(), st.integers(0, 7))
def test_windows_are_those_of_the_runtime(case, more):
    config, lengths = case
    padded = max(lengths) + more
    windows = plan_windows(torch.tensor(lengths), padded, config)
    for row, length in enumerate(lengths):
        indices, sources = expected(length, config)
        assert windows.present[row].tolist() == [index < len(indices) for index in range(windows.present.shape[1])]
        for index, window in enumerate(indices):
            assert windows.indices[row, index][windows.mask[row, index]].tolist() == window
        found = [divmod(source, config.length) for source in windows.sources[row, :length].tolist()]
        assert found == sources
    assert windows.mask.any(-1).all()


@pytest.mark.parametrize("lengths", [[40, 9, 23], [40, 40, 40]])
def test_every_token_gets_its_own_state_back(lengths):
    config = SegmentConfig(10, 3, prefix=1, suffix=1)
    windows = plan_windows(torch.tensor(lengths), 40, config)
    ids = torch.arange(120).view(3, 40)
    restored = windows.restore(windows.take(ids)[..., None].float())
    for row, length in enumerate(lengths):
        assert restored[row, :length, 0].tolist() == ids[row, :length].tolist()
