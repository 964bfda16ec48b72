"""Charts are well-formed, and everything in them stands inside the picture."""

import re
import xml.etree.ElementTree as ET

import pytest

from ctx_export.charts import Series, histogram_chart, line_chart
from ctx_runtime.histogram import LengthHistogram
from tests.fixtures.traffic import moby_dick

ENDS = (43, 84, 139, 210, 316, 447, 701, 1031)


def parse(svg: str) -> ET.Element:
    """The picture, once every coordinate is known to be inside of it."""
    root = ET.fromstring(svg)  # noqa: S314 (ours)
    width, height = (float(root.get(side)) for side in ("width", "height"))
    for element in root.iter():
        for names, limit in ((("x", "x1", "x2", "cx"), width), (("y", "y1", "y2", "cy"), height)):
            assert all(0 <= float(element.get(name)) <= limit for name in names if element.get(name)), element.attrib
        for point in (element.get("points") or "").split():
            x, y = map(float, point.split(","))
            assert 0 <= x <= width and 0 <= y <= height
    return root


def numbers(root: ET.Element, kind: str) -> list[str]:
    return [element.text for element in root.iter("text") if element.get("class") == kind]


@pytest.mark.parametrize("width", [340, 820])
def test_a_histogram_shows_every_input_and_every_bucket(width) -> None:
    root = parse(histogram_chart(moby_dick(), ENDS, width=width))
    assert numbers(root, "end-label") == list(map(str, ENDS))
    titles = [element.text for element in root.iter("title")]
    assert sum(int(re.search(r"([\d,]+) inputs", title)[1].replace(",", "")) for title in titles) == 2513


@pytest.mark.parametrize("lengths", [[1], [1, 1, 2], [16] * 5, [5000], [1, 8192]])
def test_any_traffic_can_be_drawn(lengths) -> None:
    root = parse(histogram_chart(LengthHistogram.of(lengths), (16, 64), width=340))
    titles = [element.text for element in root.iter("title")]
    assert sum(int(title.split(": ")[1].split()[0]) for title in titles) == len(lengths)


@pytest.mark.parametrize("log", [True, False])
def test_lines_have_a_legend_and_a_dot_a_point(log) -> None:
    lines = [Series(f"<{name}>", ((8, 0.5), (64, 2.0), (512, 33.0)), name) for name in "abc"]
    root = parse(line_chart(lines, label="ms & more", width=340, log=log))
    assert numbers(root, "legend") == ["<a>", "<b>", "<c>"] and root.get("aria-label") == "ms & more"
    heights = [float(dot.get("cy")) for dot in root.iter("circle")]
    assert len(heights) == 9 and heights[0] > heights[1] > heights[2]


@pytest.mark.parametrize("values", [(0.0, 0.0), (0.92, 0.95), (1e-3, 1e5), (7.0, 7.0)])
def test_any_values_can_be_drawn(values) -> None:
    points = tuple(zip((16, 512), values, strict=True))
    parse(line_chart([Series("f1", points, "a")], label="quality", width=820, log=values[0] > 0))


def test_one_point_is_a_dot() -> None:
    assert len(list(parse(line_chart([Series("p50", ((64, 3.0),), "a")], label="ms", width=340)).iter("circle"))) == 1


def test_the_ticks_of_a_logarithmic_axis_enclose_the_values() -> None:
    root = parse(line_chart([Series("p50", ((8, 0.7), (512, 180.0)), "a")], label="ms", width=820, log=True))
    ticks = [
        float(text) for text in numbers(root, "tick") if "." in text or int(text) not in {8, 16, 32, 64, 128, 256, 512}
    ]
    assert ticks == [0.5, 1, 2, 5, 10, 20, 50, 100, 200]
