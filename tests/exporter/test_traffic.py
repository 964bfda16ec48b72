import builtins
import json

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from ctx_export.traffic import read_traffic
from ctx_runtime.errors import InputError, MissingExtraError
from tests.fixtures.traffic import MOBY_DICK

EXPECTED = {"lengths": {"3": 1, "17": 2, "900": 1}}
LENGTHS = (17, 3, 900, 17)


@pytest.fixture
def tokenizer(tmp_path):
    """A tokenizer of one token a word, in the folder of a bundle."""
    made = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    folder = tmp_path / "some.bundle"
    (folder / "tokenizer").mkdir(parents=True)
    made.save(str(folder / "tokenizer/tokenizer.json"))
    return folder


def write(path, lengths=LENGTHS, column="length"):
    """Write `lengths` as what the ending of `path` says."""
    rows = [{"id": index, column: length} for index, length in enumerate(lengths)]
    if path.suffix == ".csv":
        path.write_text("\n".join([f"id,{column}", *(f"{row['id']},{row[column]}" for row in rows)]) + "\n")
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    elif path.suffix == ".parquet":
        pyarrow = pytest.importorskip("pyarrow", reason="needs the extra `plan`")
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        path.write_text("# tokens\n" + "\n".join(map(str, lengths)) + "  # the last\n\n")
    return path


@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.jsonl", "a.parquet", "lengths"])
def test_every_form_gives_the_same_histogram(tmp_path, name) -> None:
    assert read_traffic(write(tmp_path / name)).to_json() == EXPECTED


def test_what_a_runtime_records_is_read_with_whatever_stands_beside(tmp_path) -> None:
    (tmp_path / "stats.json").write_text(json.dumps({"buckets": {}, **EXPECTED}))
    assert read_traffic(tmp_path / "stats.json").to_json() == EXPECTED


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet"])
def test_a_column_of_texts_is_counted_by_a_tokenizer(tmp_path, tokenizer, name) -> None:
    path = write(tmp_path / name, ["call me", "Ishmael", "some years ago"], column="text")
    assert read_traffic(path, column="text", tokenizer=tokenizer).to_json() == {"lengths": {"1": 1, "2": 1, "3": 1}}


@pytest.mark.parametrize(("split", "lengths"), [("file", [1, 6]), ("paragraph", [1, 1, 5]), ("line", [1, 1, 2, 3])])
def test_a_folder_of_texts(tmp_path, tokenizer, split, lengths) -> None:
    (tmp_path / "texts/deep").mkdir(parents=True)
    (tmp_path / "texts/a.txt").write_text("one\n\ntwo words\nand three more\n")
    (tmp_path / "texts/deep/b.txt").write_text("alone")
    (tmp_path / "texts/empty.txt").write_text("\n")
    read = read_traffic(tmp_path / "texts", tokenizer=tokenizer / "tokenizer/tokenizer.json", split=split)
    assert [n for n, count in zip(read.lengths, read.counts, strict=True) for _ in range(count)] == lengths


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "12\nmany\n", "a.txt:2: 'many' is not a number of tokens"),
        ("a.txt", "12\n0\n", "a.txt:2: 0 is not a number of tokens"),
        ("a.txt", "-5", "a.txt:1: '-5' is not a number of tokens"),
        ("a.txt", "9" * 9999, "a.txt:1: '9999"),
        ("a.txt", "99999999999", "not a whole number from 1 to"),
        ("a.txt", "# nothing\n", "holds no input"),
        ("a.csv", "id,tokens\n1,5\n", "has no column 'length'"),
        ("a.csv", "length\n5\n5.5\n", "a.csv:3: '5.5' is not a number of tokens"),
        ("a.jsonl", '{"length": 5}\n{"length": true}\n', "a.jsonl:2: True is not a number of tokens"),
        ("a.jsonl", '{"length": 5}\n{"len', "a.jsonl:2: not JSON"),
        ("a.jsonl", "[5]\n", "a.jsonl:1: not a JSON object"),
        ("a.json", '{"lengths": {"five": 3}}', "not a recorded histogram: lengths.five"),
        ("a.json", '{"lengths": {"5": -3}}', "not a recorded histogram: lengths.5"),
        ("a.json", '{"lengths": {"5": 0}}', "counts no input"),
        ("a.parquet", "not parquet", "is not a Parquet file"),
        ("a.txt", b"\xff\xfe", "can't be read"),
    ],
)
def test_a_bad_value_is_one_line_that_says_where(tmp_path, name, content, message) -> None:
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError) as caught:
        read_traffic(tmp_path / name)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_file_or_tokenizer_is_named(tmp_path) -> None:
    with pytest.raises(InputError, match=r"absent\.txt can't be read"):
        read_traffic(tmp_path / "absent.txt")
    with pytest.raises(InputError, match="is a folder of texts"):
        read_traffic(tmp_path)
    with pytest.raises(InputError, match=r"there is no tokenizer\.json"):
        read_traffic(tmp_path, tokenizer=tmp_path)


def test_without_pyarrow_the_hint_is_the_pip_line(tmp_path, monkeypatch) -> None:
    real = builtins.__import__

    def no_pyarrow(name, *arguments, **named):
        if name.split(".")[0] == "pyarrow":
            raise ImportError(name)
        return real(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", no_pyarrow)
    (tmp_path / "a.parquet").touch()
    with pytest.raises(MissingExtraError) as caught:
        read_traffic(tmp_path / "a.parquet")
    assert caught.value.hint == "pip install 'ctx-export[plan]'"


def test_the_sample_is_the_one_that_the_documents_quote() -> None:
    sample = read_traffic(MOBY_DICK)
    assert (sample.inputs, sample.percentile(50), sample.percentile(95), sample.longest) == (2513, 81, 334, 1031)
