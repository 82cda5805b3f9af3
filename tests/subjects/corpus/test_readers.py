"""A file that cannot be read is refused with the place: file, line, row, byte offset."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import pytest

from altgrad_cli.errors import DataError
from altgrad_cli.subjects.corpus.corpus_files import find_files
from altgrad_cli.subjects.corpus.documents import load_documents
from altgrad_cli.subjects.corpus.readers import read_documents
from altgrad_cli.subjects.corpus.records import Reading


def refusal(path: Path, content: bytes) -> DataError:
    path.write_bytes(content)
    with pytest.raises(DataError) as refused:
        list(read_documents(path, Reading()))
    assert refused.value.exit_code == 2
    return refused.value


def test_undecodable_bytes_are_named_with_their_offset_in_the_file(tmp_path: Path) -> None:
    text = refusal(tmp_path / "law.txt", b"Article 1\ncaf\xe9 law")
    assert text.message == "byte 0xe9 at offset 13 is not UTF-8"
    assert text.where == str(tmp_path / "law.txt")
    assert text.hint is not None
    first = b'{"text": "na\xc3\xafve"}\n\n'
    second = b'{"text": "caf\xe9"}\n'
    line = refusal(tmp_path / "law.jsonl", first + second)
    assert line.message == f"byte 0xe9 at offset {len(first) + second.index(0xE9)} is not UTF-8"
    assert line.where == f"{tmp_path / 'law.jsonl'}:3"
    marked = refusal(tmp_path / "marked.txt", b"\xef\xbb\xbfok \xff")
    assert marked.message == "byte 0xff at offset 6 is not UTF-8"


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    (tmp_path / "law.txt").write_bytes(b"\xef\xbb\xbfLaw")
    (tmp_path / "law.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "Law"}\r\n')
    for name in ("law.txt", "law.jsonl"):
        assert [document.text for document in read_documents(tmp_path / name, Reading())] == ["Law"]


def test_malformed_json_is_named_with_its_line(tmp_path: Path) -> None:
    broken = refusal(tmp_path / "law.jsonl", b'{"text": "a"}\n{"text": "b"\n')
    assert broken.where == f"{tmp_path / 'law.jsonl'}:2"
    assert broken.message == "malformed JSON at column 13: Expecting ',' delimiter"
    assert refusal(tmp_path / "law.json", b'{"text": ').where == str(tmp_path / "law.json")
    assert refusal(tmp_path / "lines.json", b'{"text": "a"}\noops').where == f"{tmp_path / 'lines.json'}:2"


@pytest.mark.parametrize("content", [b"[" * 100_000, b"[" + b"9" * 5_000 + b"]"])
def test_json_that_python_gives_up_on(tmp_path: Path, content: bytes) -> None:
    assert "JSON" in refusal(tmp_path / "law.jsonl", content).message


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ([1, 2], "a record is a JSON list, not an object"),
        ("text", "a record is a JSON str, not an object"),
        ({"text": 7}, "the field text holds int, not text"),
        ({"text": {"en": ["a", {"b": 1}]}}, "the field text holds dict, not text"),
        ({"main_body": [1]}, "the field header, recitals or main_body holds int, not text"),
        ({"text": "\ud800"}, "half a surrogate pair at character 0: this is no Unicode text"),
    ],
)
def test_records_without_text(tmp_path: Path, record: object, message: str) -> None:
    refused = refusal(tmp_path / "law.jsonl", json.dumps(record).encode())
    assert refused.message == message
    assert refused.where == f"{tmp_path / 'law.jsonl'}:1"


def test_a_missing_text_field_names_the_fields_there_are(tmp_path: Path) -> None:
    refused = refusal(tmp_path / "law.jsonl", b'{"celex_id": "1", "body": "x", "labels": []}')
    assert refused.message == "no field with text; the fields are: celex_id, body, labels"
    assert refused.allowed == "text, or header, recitals and main_body"
    assert refusal(tmp_path / "none.jsonl", b"{}").message.endswith("the fields are: none")


def test_parquet_without_text_names_its_columns(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "law.parquet"
    parquet.write_table(pyarrow.table({"id": [1], "body": ["x"]}), path)
    with pytest.raises(DataError, match="the fields are: id, body") as refused:
        list(read_documents(path, Reading()))
    assert refused.value.where == f"{path}: row 1"
    assert refused.value.hint == "data.text_field=body reads the text from the field of that name"


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" + b"\x00" * 400 + b"PAR1"])
def test_parquet_that_is_none(tmp_path: Path, content: bytes) -> None:
    pytest.importorskip("pyarrow")
    assert "not a Parquet file" in refusal(tmp_path / "law.parquet", content).message


def test_a_damaged_page_of_a_parquet_file(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "law.parquet"
    parquet.write_table(pyarrow.table({"text": [f"law {k}" for k in range(500)]}), path, compression="gzip")
    whole = path.read_bytes()
    assert "not a Parquet file" in refusal(path, whole[:100] + bytes(200) + whole[300:]).message


def test_parquet_text_that_is_not_utf8(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    column = pyarrow.StringArray.from_buffers(
        1, pyarrow.array([0, 2], pyarrow.int32()).buffers()[1], pyarrow.py_buffer(b"\xff\xfe")
    )
    parquet.write_table(pyarrow.table({"text": column}), tmp_path / "law.parquet")
    with pytest.raises(DataError, match="utf-8"):
        list(read_documents(tmp_path / "law.parquet", Reading()))


def test_parquet_without_pyarrow_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    refused = refusal(tmp_path / "law.parquet", b"PAR1")
    assert refused.hint == "pip install 'altgrad[parquet]'"


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="the superuser may read everything")
def test_files_and_folders_without_permission(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir()
    (tmp_path / "law.txt").write_text("law")
    (tmp_path / "law.txt").chmod(0)
    (tmp_path / "locked").chmod(0)
    try:
        for path in (tmp_path / "law.txt", tmp_path / "locked", tmp_path / "locked/a.txt"):
            with pytest.raises(DataError, match="Permission denied"):
                load_documents(find_files(path), Reading(), 0.1)
    finally:
        (tmp_path / "locked").chmod(0o700)


def test_what_the_operating_system_says_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The superuser's stand-in for the test above."""

    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(tmp_path))

    (tmp_path / "law.txt").write_text("law")
    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(DataError, match=re.escape("cannot read the corpus: Permission denied")):
        load_documents(find_files(tmp_path / "law.txt"), Reading(), 0.1)
    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(DataError, match=re.escape("cannot read the corpus: Permission denied")):
        find_files(tmp_path)
