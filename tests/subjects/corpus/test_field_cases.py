"""Corpora as users have them: the files of the field cases where they are, and variants made here."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import shutil
import socket
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest

from altgrad_cli.config.data import DataConfig
from altgrad_cli.errors import ConfigError, DataError
from altgrad_cli.subjects.corpus.corpus_files import find_files
from altgrad_cli.subjects.corpus.documents import Documents, load_documents
from altgrad_cli.subjects.corpus.records import Reading
from altgrad_cli.subjects.corpus.tokens import load_corpus
from tests.conftest import SHARED_DATA

FIELD_CASES = SHARED_DATA.parent / "field-cases" / "corpora"
ROWS = "".join(json.dumps({"text": f"act {number}"}) + "\n" for number in range(20)).encode()


def load(path: Path, text_field: str | None = None) -> Documents:
    return load_documents(find_files(path), Reading(text_field=text_field), 0.1)


def texts(documents: Documents) -> int:
    return len(documents.train) + len(documents.validation)


def refusal(path: Path) -> DataError:
    with pytest.raises(DataError) as refused:
        load(path)
    return refused.value


@pytest.fixture
def field_cases() -> Path:
    if not FIELD_CASES.is_dir():
        if os.environ.get("CI") == "true":
            pytest.fail(f"the field cases are absent: {FIELD_CASES}")
        pytest.skip(f"the field cases are absent: {FIELD_CASES}")
    return FIELD_CASES


# The files themselves


@pytest.mark.parametrize(
    ("name", "count", "text_field"),
    [
        ("gzmix", 60, None),
        ("hfdir", 50, None),
        ("nulltext.jsonl", 60, None),
        ("bin.parquet", 60, None),
        ("noncol.parquet", 60, "content"),
        ("manytxt", 10, None),
    ],
)
def test_every_document_of_a_field_case_is_read(
    field_cases: Path, name: str, count: int, text_field: str | None
) -> None:
    assert texts(load(field_cases / name, text_field)) == count


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        ("utf16.txt", "the text is UTF-16, not UTF-8", "iconv -f UTF-16 -t UTF-8 < "),
        ("gzdisguise.jsonl", "the content is gzip-compressed", "call it gzdisguise.jsonl.gz"),
        ("dupcol.parquet", "text stands there more than once", "data.text_field="),
        ("noncol.parquet", "the fields are: content", "data.text_field=content"),
    ],
)
def test_a_field_case_that_cannot_be_read_names_the_way_on(
    field_cases: Path, name: str, message: str, hint: str
) -> None:
    error = refusal(field_cases / name)
    assert message in error.message
    assert hint in str(error.hint)


def test_a_disguised_file_reads_under_the_name_that_the_hint_gives(field_cases: Path, tmp_path: Path) -> None:
    shutil.copy(field_cases / "gzdisguise.jsonl", tmp_path / "gzdisguise.jsonl.gz")
    assert texts(load(tmp_path / "gzdisguise.jsonl.gz")) > 10


# Encodings


SCRIPTS = {
    "latin": ROWS.decode(),
    "digits": "1000 20 3000 400.00\n" * 40,
    "greek": "Ο νόμος της Ένωσης εφαρμόζεται αμέσως.\n" * 20,
    "cyrillic": "Законът на Съюза се прилага. " * 20,
    "chinese": "法律适用于本联盟,自公布之日起施行。中华人民共和国。" * 20,
    "one word": "law",
}


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("suffix", [".txt", ".jsonl.gz"])
def test_wide_encodings_are_named_and_the_hint_converts_them(
    tmp_path: Path, encoding: str, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = []
    for script, text in SCRIPTS.items():
        path = tmp_path / f"{script}{suffix}"
        content = text.encode(encoding)
        path.write_bytes(gzip.compress(content) if suffix.endswith(".gz") else content)
        error = refusal(path)
        short = encoding.replace("-le", "le").replace("-be", "be")
        assert error.message == f"the text is {short.upper()}, not UTF-8"
        commands.append(str(error.hint).partition("place: ")[2])
    monkeypatch.chdir(tmp_path)
    subprocess.run(["bash", "-ec", "\n".join(commands)], check=True, timeout=60)
    for command, text in zip(commands, SCRIPTS.values(), strict=True):
        converted = tmp_path / command.rpartition("> ")[2].strip("'")
        assert converted.read_bytes().removeprefix(b"\xef\xbb\xbf") == text.encode()


@pytest.mark.parametrize(
    "content",
    [
        bytes(2000),
        b"law " * 100 + bytes(64) + b"law " * 100,
        b"\x00a\x01\x02" * 200,
        numpy.arange(50_000, dtype="<u2").tobytes(),
        numpy.random.default_rng(0).standard_normal(500).astype("<f4").tobytes(),
        numpy.random.default_rng(0).bytes(4000),
    ],
)
def test_numbers_and_holes_are_no_text(tmp_path: Path, content: bytes) -> None:
    for name in ("law.txt", "law.jsonl"):
        (tmp_path / name).write_bytes(content)
        assert "binary data" in refusal(tmp_path / name).message


def test_a_hole_far_into_a_file_and_nul_in_a_record(tmp_path: Path) -> None:
    (tmp_path / "law.txt").write_bytes(b"law " * 10_000 + bytes(8))
    assert "8 of 40,008 characters are NUL" in refusal(tmp_path / "law.txt").message
    (tmp_path / "law.jsonl").write_text(json.dumps({"text": "\0" * 10}))
    assert "NUL" in refusal(tmp_path / "law.jsonl").message
    (tmp_path / "stray.txt").write_text("law " * 1000 + "\0" + "law " * 1000)
    assert texts(load(tmp_path / "stray.txt")) == 2


def test_binary_data_is_never_taken_for_latin_letters(tmp_path: Path) -> None:
    (tmp_path / "law.txt").write_bytes(bytes(number for number in range(1, 256)) * 20)
    assert "binary data" in refusal(tmp_path / "law.txt").message
    assert "no conversion of encodings helps" in str(refusal(tmp_path / "law.txt").hint)
    (tmp_path / "law.txt").write_bytes("loi d'été, publiée ".encode("latin1") * 20)
    assert "iconv -f LATIN1" in str(refusal(tmp_path / "law.txt").hint)


# Compression


def zstd(content: bytes) -> bytes:
    pyarrow = pytest.importorskip("pyarrow")
    packed: bytes = pyarrow.compress(content, codec="zstd", asbytes=True)
    return packed


PACKERS = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstd}


@pytest.mark.parametrize("suffix", list(PACKERS))
@pytest.mark.parametrize("kind", [".jsonl", ".ndjson", ".json", ".txt"])
def test_compressed_files_are_read_disguised_and_damaged_ones_are_named(
    tmp_path: Path, suffix: str, kind: str
) -> None:
    packed = PACKERS[suffix](ROWS)
    plain, twice = tmp_path / f"law{kind}", tmp_path / f"twice{kind}"
    fitting = tmp_path / f"law{kind}{suffix}"
    plain.write_bytes(ROWS)
    expected = load(plain)
    fitting.write_bytes(packed)
    assert load(fitting) == expected
    plain.write_bytes(packed)
    assert f"call it law{kind}{suffix}" in str(refusal(plain).hint)
    fitting.write_bytes(packed + packed)
    twice.write_bytes(ROWS + ROWS)
    assert load(fitting) == load(twice)
    for damaged in (packed[: len(packed) // 2], packed + b"more text", packed + ROWS):
        fitting.write_bytes(damaged)
        assert "damaged or cut-off" in refusal(fitting).message
    fitting.write_bytes(ROWS)
    assert f"call it law{kind}" in str(refusal(fitting).hint)
    fitting.write_bytes(PACKERS[suffix](packed))
    assert f"call it law{kind}{suffix}{suffix}: " in str(refusal(fitting).hint)
    fitting.rename(tmp_path / f"law{kind}{suffix}{suffix}")
    assert load(tmp_path / f"law{kind}{suffix}{suffix}") == expected


def test_zstd_without_its_library_names_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "law.jsonl.zst").write_bytes(zstd(ROWS))
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    error = refusal(tmp_path / "law.jsonl.zst")
    assert "zstd -d" in str(error.hint)
    assert error.where == str(tmp_path / "law.jsonl.zst")


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "tar.xz", "7z", "rar"])
@pytest.mark.parametrize(
    "name", ["law.txt", "law.jsonl", "law.parquet", "law.json.gz", "law.tgz", "law.bin", ""]
)
def test_archives_are_named_and_the_hint_unpacks_them(
    tmp_path: Path, kind: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "acts.jsonl").write_bytes(ROWS)
    path = tmp_path / (name or f"law.{kind}")
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.write(tmp_path / "acts.jsonl", "acts.jsonl")
    elif kind in ("7z", "rar"):
        path.write_bytes({"7z": b"7z\xbc\xaf\x27\x1c", "rar": b"Rar!\x1a\x07\x01\x00"}[kind] + bytes(40))
    else:
        with tarfile.open(path, f"w:{kind[4:]}") as archive:
            archive.add(tmp_path / "acts.jsonl", "acts.jsonl")
    error = refusal(path)
    assert f"a {kind[:3]} archive" in error.message
    if kind.startswith("tar"):
        monkeypatch.chdir(tmp_path)
        command, _, unpacked = str(error.hint).partition(", and give data.path=")
        subprocess.run(["bash", "-c", command], check=True, timeout=20)
        assert texts(load(tmp_path / unpacked)) == 20


def test_what_else_lies_under_a_compression_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import ipc, parquet

    table = pyarrow.table({"text": [f"act {number}" for number in range(20)]})
    parquet.write_table(table, tmp_path / "plain.parquet")
    packed = tmp_path / "{law}.parquet.gz"
    packed.write_bytes(gzip.compress((tmp_path / "plain.parquet").read_bytes()))
    error = refusal(packed)
    assert "a Parquet file, under gzip" in error.message
    monkeypatch.chdir(tmp_path)
    subprocess.run(["bash", "-c", str(error.hint).partition("place: ")[2]], check=True, timeout=20)
    assert texts(load(tmp_path / "{law}-unpacked.parquet")) == 20
    for new in (ipc.new_file, ipc.new_stream):
        for name in ("data.arrow", "law.txt"):
            with new(str(tmp_path / name), table.schema) as arrow:
                arrow.write_table(table)
            assert "to_parquet" in str(refusal(tmp_path / name).hint)


def test_a_pointer_of_git_lfs_is_no_text(tmp_path: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"
    for name in ("law.txt", "law.jsonl"):
        (tmp_path / name).write_text(pointer)
        assert "git lfs pull" in str(refusal(tmp_path / name).hint)


# Folders


def test_what_is_passed_over_is_counted_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a.jsonl").write_bytes(ROWS)
    for name in ("b.csv", "c.csv", "d.jsonl.lz4", "README.md", "dataset_infos.json", ".hidden.csv"):
        (tmp_path / name).write_text("{}")
    assert texts(load(tmp_path)) == 20
    assert "passed over 3 files (2 .csv, 1 .jsonl.lz4)" in caplog.text


def test_unnamed_files_beside_a_split_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("train.jsonl", "more.jsonl"):
        (tmp_path / name).write_bytes(ROWS)
    assert texts(load(tmp_path)) == 20
    assert "more.jsonl" in caplog.text


def test_a_compressed_copy_of_a_file_is_not_read_twice(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a.jsonl").write_bytes(ROWS)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(ROWS))
    assert texts(load(tmp_path)) == 20
    assert "1 .jsonl.gz" in caplog.text


def test_linked_folders_are_followed_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    corpus, elsewhere = tmp_path / "up/corpus", tmp_path / "elsewhere"
    for folder, name in ((corpus, "a"), (elsewhere, "b"), (elsewhere / "deep", "c"), (tmp_path / "up", "z")):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.txt").write_text(f"text {name}")
    (corpus / "more").symlink_to(elsewhere)
    (corpus / "again").symlink_to(elsewhere / "deep")
    (corpus / "self").symlink_to(corpus)
    (elsewhere / "back").symlink_to(corpus)
    (elsewhere / "above").symlink_to(tmp_path / "up")
    documents = load(corpus)
    assert sorted(documents.train + documents.validation) == ["text a", "text b", "text c"]
    assert "a link to a folder above" in caplog.text


@pytest.mark.parametrize("link", [Path.symlink_to, Path.hardlink_to])
def test_a_file_under_two_names_is_read_once(
    tmp_path: Path, link: Callable[[Path, Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a.jsonl").write_bytes(ROWS)
    link(tmp_path / "b.jsonl", tmp_path / "a.jsonl")
    assert texts(load(tmp_path)) == 20
    assert f"b.jsonl (the same file as {tmp_path / 'a.jsonl'})" in caplog.text


@pytest.mark.parametrize("target", ["gone.jsonl", "law.jsonl"])
def test_a_link_that_leads_nowhere_is_refused(tmp_path: Path, target: str) -> None:
    (tmp_path / "law.jsonl").symlink_to(target)
    for path in (tmp_path, tmp_path / "law.jsonl"):
        assert refusal(path).message == f"a link to {target}, which leads nowhere"


@pytest.mark.parametrize("name", ["more", "more.txt"])
def test_a_link_that_was_copied_as_a_text_is_named(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "corpus").mkdir()
    (tmp_path / "elsewhere").mkdir()
    for number in range(2):
        (tmp_path / "corpus" / f"{number}.txt").write_text(f"act {number}")
    (tmp_path / "corpus" / name).write_text("../elsewhere")
    assert texts(load(tmp_path / "corpus")) == 2
    assert "a link to ../elsewhere that was copied as a text" in caplog.text


def test_all_shards_of_a_split_stand_beside_metadata(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for split in ("train", "validation", "test"):
        for shard in range(2):
            (tmp_path / f"{split}-0000{shard}-of-00002.jsonl").write_bytes(ROWS)
    for name in ("dataset_info.json", "dataset_dict.json", "state.json", "README.md", "stats.json"):
        (tmp_path / name).write_text("{}")
    documents = load(tmp_path)
    assert (len(documents.train), len(documents.validation)) == (40, 40)
    assert "passed over 1 file (1 .json)" in caplog.text
    (tmp_path / "train-00001-of-00002.jsonl").unlink()
    load(tmp_path)
    assert "1 of the 2 shards of train are read" in caplog.text
    caplog.clear()
    assert len(load(tmp_path / "train-00000-of-00002.jsonl").validation) == 40
    assert "1 of the 2 shards of train are read" in caplog.text


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_pipes_and_sockets_are_refused_and_never_waited_for(tmp_path: Path, inside: bool, kind: str) -> None:
    path = tmp_path / "law.txt"
    with socket.socket(socket.AF_UNIX) as listening:
        if kind == "pipe":
            os.mkfifo(path)
        else:
            listening.bind(str(path))
        error = refusal(tmp_path if inside else path)
    assert "not a regular file" in error.message
    assert error.where == str(path)


# Records


@pytest.mark.parametrize(
    "row", ['{"text": null}', '{"text": ""}', "{}", "null", '{"text": NaN}', '{"id": 3}']
)
def test_a_record_without_text_is_left_out_and_counted(
    tmp_path: Path, row: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "law.jsonl"
    path.write_bytes(row.encode() + b"\n" + ROWS)
    for _ in range(2):  # read, then from the cache
        caplog.clear()
        assert load_corpus(DataConfig(path=str(path)), 4).source.endswith("; 1 without text left out")
        assert "left out 1 documents without text" in caplog.text


def test_lists_of_texts_are_joined_whatever_holds_them(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = [["It was so.", f"Fact {number}."] for number in range(20)]
    expected = sorted("\n".join(row) for row in rows)
    (tmp_path / "law.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    texts_ = pyarrow.array(rows)
    in_bytes = pyarrow.array([[part.encode() for part in row] for row in rows])
    by_language = pyarrow.array([{"en": row, "de": None} for row in rows])
    for number, column in enumerate((texts_, in_bytes, by_language)):
        parquet.write_table(pyarrow.table({"text": column}), tmp_path / f"{number}.parquet")
    for name in ("law.jsonl", "0.parquet", "1.parquet", "2.parquet"):
        documents = load(tmp_path / name)
        assert sorted(documents.train + documents.validation) == expected


def test_joined_files_keep_their_byte_order_marks_out_of_the_records(tmp_path: Path) -> None:
    (tmp_path / "law.jsonl").write_bytes((b"\xef\xbb\xbf" + ROWS) * 2)
    assert texts(load(tmp_path / "law.jsonl")) == 40


@pytest.mark.parametrize("row", ['{"text": "a", "text": "b"}', '{"text": {"en": "a", "en": "b"}}'])
def test_two_fields_of_one_name_are_refused(tmp_path: Path, row: str) -> None:
    for name in ("law.jsonl", "law.json"):
        (tmp_path / name).write_text(row)
        assert "more than once" in refusal(tmp_path / name).message


def test_the_field_of_the_text_may_be_named_in_every_kind_of_file(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = [{"text": "not this", "body": f"act {number}", "labels": [1]} for number in range(20)]
    (tmp_path / "law.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "law.json").write_text(json.dumps(rows))
    table = pyarrow.table(
        {"body": pyarrow.array([row["body"].encode() for row in rows], pyarrow.large_binary())}
    )
    parquet.write_table(table, tmp_path / "law.parquet")
    for name in ("law.jsonl", "law.json", "law.parquet"):
        documents = load(tmp_path / name, "body")
        assert sorted(documents.train + documents.validation) == sorted(row["body"] for row in rows)
        by_layout = load_corpus(DataConfig(path=str(tmp_path / name), text_field="body"), 4)
        assert by_layout.source.startswith("records with a field body")
    with pytest.raises(DataError, match="no field bodi") as refused:
        load(tmp_path / "law.jsonl", "bodi")
    assert refused.value.allowed == "text, body, labels"
    (tmp_path / "law.txt").write_text("law")
    with pytest.raises(DataError, match="has no fields"):
        load(tmp_path / "law.txt", "body")
    with pytest.raises(ConfigError, match="has no fields"):
        DataConfig(text_field="body")


def test_another_field_is_another_corpus_in_the_cache(tmp_path: Path) -> None:
    rows = ({"text": f"act {number}", "body": f"law {number}"} for number in range(20))
    (tmp_path / "law.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = DataConfig(path=str(tmp_path / "law.jsonl"))
    named = DataConfig(path=str(tmp_path / "law.jsonl"), text_field="body")
    assert load_corpus(config, 4).fingerprint != load_corpus(named, 4).fingerprint
