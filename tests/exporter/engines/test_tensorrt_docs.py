from pathlib import Path

from ctx_export.engines.builder import LIBRARIES
from ctx_export.engines.targets import OLDEST_ARCHITECTURE

TEXT = (Path(__file__).parents[3] / "docs/tensorrt.md").read_text()


def test_the_table_of_the_two_libraries_is_that_of_the_code():
    rtx, classic = LIBRARIES["tensorrt-rtx"], LIBRARIES["tensorrt"]
    yes_no = {True: "yes", False: "no"}
    for heading, left, right in (
        ("backend", f"`{rtx.backend}`", f"`{classic.backend}`"),
        ("built without a GPU", yes_no[rtx.ahead_of_time], yes_no[classic.ahead_of_time]),
        ("targets", rtx.targets, classic.targets),
        ("one engine for several architectures", rtx.compatibility, classic.compatibility),
        ("kept on the device", rtx.device_cache, classic.device_cache),
    ):
        assert f"| {heading} | {left} | {right} |" in TEXT


def test_the_table_of_precisions_is_that_of_the_code():
    for precision, oldest in OLDEST_ARCHITECTURE.items():
        (row,) = [line for line in TEXT.splitlines() if line.startswith(f"| {precision} |")]
        assert f"sm{oldest} and later" in row
