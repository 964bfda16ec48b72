"""Resource profiles by name and by path, and the one line that each malformed one gets."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctx_export.profiles import MAX_BYTES, load_profile, profile_names
from ctx_runtime.errors import ResourceProfileError

SMALLEST = "name: x\nbuckets: [{max_length: 16}, {max_length: 48}]\n"


def write(folder: Path, text: str) -> Path:
    path = folder / "my.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def refusal(path: Path | str) -> tuple[str, str | None]:
    with pytest.raises(ResourceProfileError) as caught:
        load_profile(path)
    message = str(caught.value)
    assert "\n" not in message
    return message, caught.value.hint


def test_the_shipped_profiles_are_known() -> None:
    assert profile_names() == ("chat-cpu", "edge-cpu", "edge-cpu-long", "jetson-orin", "rtx-laptop", "server-gpu")


@pytest.mark.parametrize("name", profile_names())
def test_a_shipped_profile_is_sound_and_says_what_it_is_for(name: str) -> None:
    profile = load_profile(name)
    assert profile.name == name
    assert profile.description
    assert all(plan.backends for plan in profile.resolve())


def test_edge_cpu_has_the_buckets_that_the_documentation_shows() -> None:
    assert [plan.max_length for plan in load_profile("edge-cpu").resolve()] == [32, 128, 512]


def test_the_smallest_profile_has_sensible_defaults(tmp_path: Path) -> None:
    first, second = load_profile(write(tmp_path, SMALLEST)).resolve()
    assert (first.min_length, first.max_length, second.min_length, second.max_length) == (1, 16, 17, 48)
    assert (first.precision, first.backends, first.batch.max) == ("fp32", ("onnxruntime-cpu",), 8)


def test_a_bucket_overrides_what_the_profile_says_for_all(tmp_path: Path) -> None:
    text = """
        name: x
        precision: fp16
        threads: 3
        buckets:
          - {max_length: 16, precision: int8, memory_budget: 1.5 MiB}
          - {max_length: 48, threads: 0, subnetwork: {layers: 4, heads: 2}}
        """
    first, second = load_profile(write(tmp_path, text)).resolve()
    assert (first.precision, first.threads, first.memory_budget) == ("int8", 3, 3 << 19)
    assert (second.precision, second.threads, second.memory_budget) == ("fp16", 0, None)
    assert second.network == "fp16-l4-h2"


def test_off_is_a_sharing_policy_and_not_a_boolean(tmp_path: Path) -> None:
    assert load_profile(write(tmp_path, SMALLEST + "share_weights: off\n")).share_weights == "off"


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path: Path) -> None:
    assert load_profile(write(tmp_path, "\ufeff" + SMALLEST)).name == "x"


def test_a_plain_name_is_never_a_file_of_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "edge-cpu").write_text(SMALLEST)
    (tmp_path / "edge-cpu.yaml").write_text(SMALLEST)
    assert load_profile("edge-cpu").name == "edge-cpu"
    assert load_profile("./edge-cpu").name == load_profile("edge-cpu.yaml").name == "x"


def test_an_unknown_name_lists_the_known_ones() -> None:
    message, hint = refusal("edge-cpi")
    assert message == "no resource profile is named 'edge-cpi'"
    assert hint is not None
    assert hint.startswith("did you mean 'edge-cpu'? shipped profiles: chat-cpu, edge-cpu, edge-cpu-long, ")


# Each case: the file, the message after `my.yaml`.
MALFORMED = {
    "unknown key": (
        "name: x\nbuckets:\n  - max_lenght: 16\n    max_length: 16\n",
        ":3: buckets.0.max_lenght: unknown key",
    ),
    "unknown key at the top": (SMALLEST + "bukets: 1\n", ":3: bukets: unknown key"),
    "missing key": ("name: x\nbuckets:\n  - {}\n", ":3: buckets.0.max_length: missing"),
    "no buckets": ("name: x\n", ":1: buckets: missing"),
    "empty buckets": ("name: x\nbuckets: []\n", ":2: buckets: tuple should have at least 1 item after validation"),
    "no name": ("buckets: [{max_length: 16}]\n", ":1: name: missing"),
    "gap": (
        "name: x\nbuckets:\n  - max_length: 16\n  - min_length: 18\n    max_length: 48\n",
        ":4: buckets.1: a gap before ctx-48: it starts at 18, expected 17",
    ),
    "overlap": (
        "name: x\nbuckets:\n  - max_length: 16\n  - min_length: 16\n    max_length: 48\n",
        ":4: buckets.1: an overlap before ctx-48: it starts at 16, expected 17",
    ),
    "not ascending": (
        "name: x\nbuckets:\n  - max_length: 48\n  - max_length: 16\n",
        ":4: buckets.1: 16 is below 49, where ctx-16 starts",
    ),
    "same bucket twice": (
        "name: x\nbuckets:\n  - max_length: 48\n  - max_length: 48\n",
        ":4: buckets.1: 48 is below 49, where ctx-48 starts",
    ),
    "does not start at 1": ("name: x\nbuckets:\n  - {min_length: 2, max_length: 48}\n", ":3: buckets.0: a gap before"),
    "min above max": (
        "name: x\nbuckets:\n  - max_length: 16\n    min_length: 17\n",
        ":3: buckets.0: expected min_length <= opt_length <= max_length, got 17, 16",
    ),
    "opt above max": (
        "name: x\nbuckets:\n  - max_length: 16\n    opt_length: 17\n",
        ":3: buckets.0: expected min_length <= opt_length <= max_length, got 17, 16",
    ),
    "opt before the bucket": (
        "name: x\nbuckets:\n  - max_length: 16\n  - {max_length: 48, opt_length: 16}\n",
        ":4: buckets.1: 16 is below 17, where ctx-48 starts",
    ),
    "zero": (
        "name: x\nbuckets:\n  - max_length: 0\n",
        ":3: buckets.0.max_length: input should be greater than or equal to 1, got 0",
    ),
    "negative": ("name: x\nbuckets:\n  - max_length: -8\n", ":3: buckets.0.max_length: input should be greater than"),
    "too long": ("name: x\nbuckets:\n  - max_length: 16777217\n", ":3: buckets.0.max_length: input should be less"),
    "float": (
        "name: x\nbuckets:\n  - max_length: 16.0\n",
        ":3: buckets.0.max_length: input should be a valid integer, got 16.0",
    ),
    "text": (
        "name: x\nbuckets:\n  - max_length: '16'\n",
        ":3: buckets.0.max_length: input should be a valid integer, got '16'",
    ),
    "octal": ("name: x\nbuckets:\n  - max_length: 010\n", ":3: buckets.0.max_length: input should be a valid integer"),
    "5,000 digits": ("name: x\nbuckets:\n  - max_length: " + "1" * 5000 + "\n", ":3: Exceeds the limit"),
    "boolean": ("name: x\nbuckets:\n  - max_length: true\n", ":3: buckets.0.max_length: input should be a valid"),
    "null": ("name: x\nbuckets:\n  - max_length:\n", ":3: buckets.0.max_length: input should be a valid integer"),
    "too many buckets": (
        "name: x\nbuckets:\n" + "".join(f"  - max_length: {length}\n" for length in range(1, 66)),
        ":2: buckets: tuple should have at most 64 items after validation",
    ),
    "bucket is no mapping": ("name: x\nbuckets:\n  - 16\n", ":3: buckets.0: input should be a valid dictionary"),
    "batch out of order": (
        "name: x\nbatch: {min: 4, opt: 2, max: 8}\nbuckets: [{max_length: 16}]\n",
        ":2: batch: expected min <= opt <= max, got 4, 2, 8",
    ),
    "batch of zero": ("name: x\nbatch: {min: 0}\nbuckets: [{max_length: 16}]\n", ":2: batch.min: input should be"),
    "duplicate key": (
        "name: x\nbuckets:\n  - max_length: 16\n    max_length: 32\n",
        ":4: buckets.0.max_length: given twice",
    ),
    "unknown backend": (
        "name: x\nbackends:\n  - onnxruntime-cpu\n  - onnxruntime-gpu\nbuckets: [{max_length: 16}]\n",
        ":4: backends.1: input should be 'onnxruntime-cpu', 'onnxruntime-cuda'",
    ),
    "no backend": ("name: x\nbackends: []\nbuckets: [{max_length: 16}]\n", ":2: backends: tuple should have at least"),
    "unknown precision": (SMALLEST + "precision: fp8\n", ":3: precision: input should be 'fp32', 'fp16', 'bf16'"),
    "bad size": (
        SMALLEST + "session_budget: 512 XB\n",
        ":3: session_budget: expected bytes or a size such as '512 MiB', got '512 XB'",
    ),
    "infinite size": (SMALLEST + "session_budget: inf GB\n", ":3: session_budget: expected bytes or a size such as"),
    "size of nothing": (SMALLEST + "session_budget: 0 MiB\n", ":3: session_budget: input should be greater than"),
    "threads below zero": (SMALLEST + "threads: -1\n", ":3: threads: input should be greater than or equal to 0"),
    "overlap as long as a window": (
        SMALLEST + "overflow: {overlap: 48}\n",
        ":3: overflow.overlap: 48 is not below the length of the largest bucket, 48",
    ),
    "unknown overflow policy": (SMALLEST + "overflow: {policy: wrap}\n", ":3: overflow.policy: input should be"),
    "name with a slash": ("name: a/b\nbuckets: [{max_length: 16}]\n", ":1: name: string should match pattern"),
    "empty file": ("", ":1: expected the keys of a resource profile, got nothing"),
    "only a comment": ("# nothing\n", ":1: expected the keys of a resource profile, got nothing"),
    "list at the top": ("- max_length: 16\n", ":1: expected the keys of a resource profile, got a list"),
    "text at the top": ("edge-cpu\n", ":1: expected the keys of a resource profile, got a str"),
    "two documents": (SMALLEST + "---\n" + SMALLEST, ":3: but found another document"),
    "broken YAML": ("name: x\nbuckets: [{max_length: 16}\n", ":3: expected ',' or ']', but got '<stream end>'"),
    "tab": ("name: x\nbuckets:\n\t- max_length: 16\n", ":3: found character '\\t' that cannot start any token"),
    "alias": ("name: &a x\ndescription: *a\n", ":1: anchors, aliases and tags are not allowed"),
    "tag": ("name: !!python/object:os.system x\n", ":1: anchors, aliases and tags are not allowed"),
    "merge key": (SMALLEST + "<<: {threads: 1}\n", ":3: <<: unknown key"),
    "key that is a list": ("[a]: x\n", ":1: expected a plain key"),
    "key with a line break": ('"a\\nb": x\n' + SMALLEST, ":1: 'a\\nb': unknown key"),
    "deep": ("name: " + "[" * 30_000 + "\n", ":1: nested deeper than 8"),
    "control character": ("name: x\n# \x07\n", ":2: special characters are not allowed"),
}


@pytest.mark.parametrize(("text", "expected"), MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_profile_is_one_line_with_file_line_and_key(tmp_path: Path, text: str, expected: str) -> None:
    path = write(tmp_path, text)
    message, _ = refusal(path)
    assert message.startswith(f"{path}{expected}")


def test_several_problems_name_the_first_of_the_file_and_count_the_rest(tmp_path: Path) -> None:
    message, _ = refusal(write(tmp_path, "name: x\nthreads: -1\nbuckets: [{max_length: 0}]\nprecision: fp8\n"))
    assert ":2: threads: " in message
    assert message.endswith("(and 2 more)")


@pytest.mark.parametrize(
    ("text", "suggestion"),
    [
        (
            "name: x\nbuckets: [{max_lenght: 16, max_length: 16}]\n",
            "did you mean 'max_length'? known keys: backends, batch",
        ),
        (SMALLEST + "overflow: {polcy: error}\n", "did you mean 'policy'? known keys: fusion, overlap, policy"),
        (SMALLEST + "batch: {zzz: 1}\n", "known keys: max, min, opt"),
        (SMALLEST + "sessions_budget: 1 GiB\n", "did you mean 'session_budget'? known keys: "),
    ],
)
def test_an_unknown_key_suggests_the_closest_of_its_place(tmp_path: Path, text: str, suggestion: str) -> None:
    _, hint = refusal(write(tmp_path, text))
    assert hint is not None
    assert hint.startswith(suggestion)


def test_files_that_are_no_text(tmp_path: Path) -> None:
    binary = tmp_path / "model.yaml"
    binary.write_bytes(b"\x80\x02}q\x00.")
    assert refusal(binary)[0] == f"{binary}: not a UTF-8 text file"
    binary.write_bytes(b"#" * (MAX_BYTES + 1))
    assert refusal(binary)[0] == f"{binary}: larger than 65536 bytes"


def test_paths_that_are_no_file(tmp_path: Path) -> None:
    message, hint = refusal(tmp_path / "absent.yaml")
    assert message == f"{tmp_path / 'absent.yaml'}: No such file or directory"
    assert hint is not None
    assert "edge-cpu" in hint
    assert refusal(tmp_path)[0] == f"{tmp_path}: Is a directory"
    assert "null byte" in refusal("a\0b.yaml")[0]


YAML_TRAPS = [
    b": ",
    b"\n",
    b"- ",
    b"{",
    b"}",
    b"[",
    b"]",
    b"&a ",
    b"*a",
    b"!!int ",
    b"? ",
    b"| \n",
    b"'",
    b'"',
    b"#",
    b"...",
]
SHIPPED = Path(__file__).parents[2] / "profiles" / "edge-cpu-long.yaml"


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_damage_is_either_harmless_or_one_line(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    text = bytearray(SHIPPED.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(text)))
        stop = data.draw(st.integers(start, min(start + 12, len(text))))
        text[start:stop] = data.draw(st.one_of(st.binary(max_size=6), st.sampled_from(YAML_TRAPS)))
    path = tmp_path_factory.getbasetemp() / "damaged.yaml"
    path.write_bytes(text)
    try:
        assert load_profile(path).resolve()
    except ResourceProfileError as error:
        assert str(error).startswith(f"{path}:")
        assert "\n" not in str(error)
