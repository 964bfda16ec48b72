import dataclasses
from html.parser import HTMLParser

import pytest

from ctx_export.report_page import describe, network_name, write_page
from ctx_runtime.bundle import Bundle
from ctx_runtime.errors import InputError
from ctx_runtime.histogram import LengthHistogram
from ctx_runtime.manifest import QualityRecord
from ctx_runtime.resource_profile import SubNetwork
from tests.fixtures.benches import made_up_bench
from tests.fixtures.browser import open_browser
from tests.fixtures.bundles import write_tiny_bundle

TRAFFIC = LengthHistogram.of([4] * 6 + [12] * 10 + [16] * 4 + [30] * 15 + [48] * 4 + [90])
QUALITY = tuple(
    QualityRecord(
        min_length=low, max_length=high, subnetwork=part, metric="f1", value=value, loss=None, examples=40,
        latency_ms=None,
    )
    for part, values in ((None, (0.91, 0.90)), (SubNetwork(layers=3, heads=6), (0.89, 0.80)))
    for (low, high), value in zip(((1, 16), (17, 48)), values, strict=True)
)  # fmt: skip


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return Bundle.open(write_tiny_bundle(tmp_path_factory.mktemp("page") / "tiny.bundle", quality=QUALITY))


@pytest.fixture(scope="module")
def page(bundle, tmp_path_factory):
    path = tmp_path_factory.mktemp("html") / "report.html"
    write_page(bundle, path, bench=made_up_bench(), traffic=TRAFFIC)
    return path


@pytest.fixture(scope="module")
def browser():
    with open_browser() as opened:
        yield opened


class Reader(HTMLParser):
    """The tags that are open at the end, every tag and attribute, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.attributes, self.words = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs) -> None:
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in {"meta", "link"}:
            self.open.append(tag)

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs) -> None:
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_data(self, data) -> None:
        self.words.append(" ".join(data.split()))


def test_it_is_one_file_that_loads_nothing_and_runs_nothing(page) -> None:
    text = page.read_text()
    reader = Reader(text)
    assert reader.open == [] and "<script" not in text and "://" not in text and "@import" not in text
    links = [value for _, name, value in reader.attributes if name in {"src", "href", "action"}]
    assert links == ["data:,"]


def test_every_section_shows_its_figures(page) -> None:
    words = Reader(page.read_text()).words
    headings = {"Buckets", "Latency by length", "Padding", "Parity by bucket", "Quality by length", "Size", "Versions"}
    figures = {"ctx-16", "ctx-48", "4.10", "3.98", "0.8900", "3 layers, 6 heads", "0.0e+00 of 1e-05"}
    assert headings | figures <= set(words)
    assert any("9.0 MB of memory (PSS) against 14.0 MB" in word for word in words)


def test_texts_from_the_bundle_stay_texts(bundle, tmp_path) -> None:
    manifest = bundle.manifest.model_copy(update={"toolchain": {"<script>alert(1)</script>": "<b>1</b>"}})
    hostile = dataclasses.replace(bundle, manifest=manifest)
    write_page(hostile, tmp_path / "r.html", bench=made_up_bench())
    text = (tmp_path / "r.html").read_text()
    assert "<script" not in text and "&lt;script&gt;" in text and "Some Processor &lt;at&gt; 3 GHz" in text


def test_shares_and_padding_of_the_buckets(bundle) -> None:
    facts = describe(bundle, None, TRAFFIC)
    short, long = facts.buckets
    segments = 2
    assert short.share == 20 / (39 + segments) and long.share == (19 + segments) / (39 + segments)
    assert short.padding == pytest.approx(1 - (6 * 4 + 10 * 12 + 4 * 16) / (20 * 16))
    assert [row.share for row in facts.padding] == sorted(row.share for row in facts.padding)
    assert facts.padding[0].share == pytest.approx(0, abs=1e-9)


def test_sizes_add_up_to_the_bundle(bundle) -> None:
    facts = describe(bundle, None, None)
    assert sum(row.bytes for row in facts.sizes) == facts.total_bytes == sum(f.bytes for f in bundle.manifest.files)
    assert {row.part for row in facts.sizes} == {"weights", "graphs", "golden vectors"}


def test_what_was_not_measured_is_said(tmp_path) -> None:
    plain = Bundle.open(write_tiny_bundle(tmp_path / "plain.bundle", parity_report=None))
    (tmp_path / "plain.bundle/parity/report.json").unlink(missing_ok=True)
    write_page(plain, tmp_path / "r.html")
    words = Reader((tmp_path / "r.html").read_text()).words
    assert (
        "Not measured." in words
        and "The bundle carries no parity report." in words
        and "Quality by length" not in words
    )


def test_without_a_bare_peer_its_column_is_empty(bundle, tmp_path) -> None:
    write_page(bundle, tmp_path / "r.html", bench=made_up_bench(bare=False))
    words = Reader((tmp_path / "r.html").read_text()).words
    assert "–" in words and "bare session, p50" not in words


def test_a_sub_network_is_named_in_words() -> None:
    assert network_name(None) == network_name(SubNetwork()) == "full network"
    assert network_name(SubNetwork(layers=2, ffn=64)) == "2 layers, 64 ffn"


def test_a_file_that_can_not_be_written_is_one_line(bundle, tmp_path) -> None:
    with pytest.raises(InputError, match="can't be written"):
        write_page(bundle, tmp_path / "absent/report.html")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1400])
def test_chromium_shows_it_without_complaint(browser, page, width, scheme) -> None:
    seen = browser.look(page, width=width, scheme=scheme)
    assert seen.console == [] and seen.page_width == width
    assert len(seen.text_sizes) > 20 and min(seen.text_sizes) >= 12
    assert seen.background == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(17, 22, 28)")
