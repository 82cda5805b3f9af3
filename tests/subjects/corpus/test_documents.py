"""Which layout, which text, which split: on real published data where there is some, else on tiny files."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from altgrad_cli.errors import DataError
from altgrad_cli.subjects.corpus.corpus_files import find_files
from altgrad_cli.subjects.corpus.documents import Documents, hold_out, load_documents
from altgrad_cli.subjects.corpus.records import Document, Reading


def load(path: Path, language: str = "en", fraction: float = 0.1) -> Documents:
    return load_documents(find_files(path), Reading(language), fraction)


def records(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write_lines(path: Path, *rows: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


# Real data, every published layout


def test_eurlex57k_lines_with_the_validation_file_beside(shared_data: Path) -> None:
    found = load(shared_data / "eurlex57k/train.jsonl")
    first = records(shared_data / "eurlex57k/train.jsonl")[0]
    assert found.train[0] == "\n".join([first["header"], first["recitals"], *first["main_body"]])
    assert (len(found.train), len(found.validation)) == (100, 100)
    assert found.source == (
        "EURLEX57K (header, recitals and main_body): 100 training and 100 validation documents,"
        " validation from dev.jsonl"
    )


def test_the_same_documents_from_parquet_as_from_json_lines(shared_data: Path) -> None:
    lines = load(shared_data / "eurlex57k")
    parquet = load(shared_data / "hub_layout/eurlex57k_loaded")
    assert parquet.train == lines.train
    assert parquet.validation == lines.validation
    assert parquet.source.startswith("EURLEX57K (text and eurovoc_concepts): 100 training and 100 validation")


def test_lexglue_archive_is_split_by_its_field(shared_data: Path) -> None:
    found = load(shared_data / "lexglue_eurlex/eurlex.jsonl")
    rows = records(shared_data / "lexglue_eurlex/eurlex.jsonl")
    assert found.train == [row["text"] for row in rows if row["data_type"] == "train"]
    assert found.validation == [row["text"] for row in rows if row["data_type"] == "dev"]
    assert found.source == (
        "LexGLUE (split named in data_type): 2 training and 2 validation documents, split by their field;"
        " 2 of the test split left out"
    )


def test_lexglue_from_the_hub(shared_data: Path) -> None:
    found = load(shared_data / "hub_layout/coastalcph_lex_glue")
    archive = load(shared_data / "lexglue_eurlex/eurlex.jsonl")
    assert found.train == archive.train
    assert found.source.startswith("LexGLUE (text and labels): 2 training and 2 validation documents")


@pytest.mark.parametrize("language", ["en", "bg", "de"])
def test_multi_eurlex_in_one_of_its_languages(shared_data: Path, language: str) -> None:
    found = load(shared_data / "multi_eurlex/train.jsonl", language)
    assert found.train == [row["text"][language] for row in records(shared_data / "multi_eurlex/train.jsonl")]
    assert f"MultiEURLEX (language {language}): 2 training and 2 validation documents" in found.source


def test_a_language_that_no_document_has(shared_data: Path) -> None:
    with pytest.raises(DataError, match="no document has text in the language tlh") as refused:
        load(shared_data / "multi_eurlex/train.jsonl", "tlh")
    assert refused.value.allowed is not None
    assert {"bg", "de", "en"} <= set(refused.value.allowed.split(", "))


def test_one_text_is_cut_where_nanogpt_cuts_it(shared_data: Path) -> None:
    text = (shared_data / "tinyshakespeare/input.txt").read_text()
    for path in ("tinyshakespeare/input.txt", "tinyshakespeare"):
        found = load(shared_data / path)
        assert found.train == [text[: int(len(text) * 0.9)]]
        assert found.train[0] + found.validation[0] == text
        assert found.source.endswith("one document cut at 90%")


def test_a_file_that_is_no_training_file_is_split_by_document(shared_data: Path) -> None:
    path = shared_data / "eurlex_cellar/flagship_gdpr_dma_dora.jsonl"
    found = load(path)
    assert (len(found.train), len(found.validation)) == (2, 1)
    assert found.source.endswith("split by document")


# Layouts of which there is no published file at hand


def test_the_original_eurlex57k_archive_one_json_a_document(tmp_path: Path) -> None:
    for split, numbers in (("train", (1, 2)), ("dev", (3,)), ("test", (4,))):
        for number in numbers:
            write_lines(
                tmp_path / f"dataset/{split}/3200{number}R0001.json",
                {
                    "celex_id": f"3200{number}R0001",
                    "header": f"HEADER {number}",
                    "recitals": "Whereas",
                    "main_body": ["one", "two"],
                    "attachments": ["Done at Brussels"] if number == 1 else "Done at Brussels",
                    "concepts": ["191"],
                },
            )
    found = load(tmp_path)
    assert found.train == ["HEADER 1\nWhereas\none\ntwo", "HEADER 2\nWhereas\none\ntwo"]
    assert found.validation == ["HEADER 3\nWhereas\none\ntwo"]
    assert found.source.startswith("EURLEX57K (one JSON a document): 2 training and 1 validation documents")


def test_multi_eurlex_as_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = [
        {"celex_id": str(k), "text": {"en": f"act {k}", "de": None if k else "Akt"}, "labels": [k]}
        for k in range(3)
    ]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "0000.parquet")
    assert sorted(load(tmp_path).train + load(tmp_path).validation) == ["act 0", "act 1", "act 2"]
    german = load(tmp_path, "de", 0.5)
    assert german.train + german.validation == ["A", "kt"]
    assert german.source.endswith("one document cut at 50%; 2 without text left out")


def test_json_that_is_a_list_and_json_that_is_lines(tmp_path: Path) -> None:
    rows = [{"text": f"act {k}"} for k in range(4)]
    (tmp_path / "list.json").write_text(json.dumps(rows, indent=1))
    write_lines(tmp_path / "lines.json", *rows)
    assert load(tmp_path / "list.json") == load(tmp_path / "lines.json")


def test_a_folder_of_texts_hidden_ones_apart(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt", "deep/down/c.TXT", ".hidden.txt", ".git/d.txt", "notes.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"text of {name}")
    found = load(tmp_path)
    assert sorted(found.train + found.validation) == [
        f"text of {name}" for name in ("a.txt", "b.txt", "deep/down/c.TXT")
    ]


@pytest.mark.parametrize("name", ["dev", "val", "valid", "validation", "validation-00000-of-00001", "DEV"])
def test_every_name_for_validation(tmp_path: Path, name: str) -> None:
    write_lines(tmp_path / "train.jsonl", {"text": "a"}, {"text": "b"})
    write_lines(tmp_path / f"{name}.jsonl", {"text": "c"})
    for never_read in ("test", "training_log"):
        (tmp_path / f"{never_read}.jsonl").write_text("not even JSON")
    for path in (tmp_path, tmp_path / "train.jsonl"):
        assert load(path).train == ["a", "b"]
        assert load(path).validation == ["c"]


def test_a_training_file_alone_is_split_by_document(tmp_path: Path) -> None:
    found = load(write_lines(tmp_path / "train.jsonl", *({"text": f"act {k}"} for k in range(20))))
    assert (len(found.train), len(found.validation)) == (18, 2)
    assert found.source.endswith("split by document")


# The split itself


def texts_held_out(texts: list[str], fraction: float) -> tuple[list[str], list[str]]:
    train, validation, _ = hold_out([Document(text, "") for text in texts], fraction)
    return [document.text for document in train], [document.text for document in validation]


def test_held_out_documents_are_those_of_smallest_hash_in_any_order() -> None:
    texts = [f"act {k}" for k in range(50)]
    train, validation = texts_held_out(texts, 0.2)
    assert set(validation) == set(sorted(texts, key=lambda text: hashlib.sha256(text.encode()).digest())[:10])
    assert train == [text for text in texts if text not in validation]
    backwards = texts_held_out(texts[::-1], 0.2)
    assert backwards == (train[::-1], validation[::-1])


def test_copies_of_a_document_are_never_on_both_sides() -> None:
    train, validation = texts_held_out([f"act {k % 7}" for k in range(70)], 0.3)
    assert not set(train) & set(validation)
    assert len(train) + len(validation) == 70
    assert len(set(validation)) == 2  # 30 % of the seven distinct ones


@pytest.mark.parametrize("fraction", [0.0001, 0.5, 0.9999])
def test_both_sides_get_a_document(fraction: float) -> None:
    train, validation = texts_held_out(["one", "two", "three"], fraction)
    assert train
    assert validation


# What is refused


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "the corpus has no text"),
        ([{"text": ""}, {"text": " \n"}], "the corpus has no text"),
        ([{"text": "a", "data_type": "test"}], "the training split is empty"),
        ([{"text": "a", "data_type": "dev"}], "the training split is empty"),
        ([{"text": "x"}], "the training split is empty"),  # one character cannot be cut in two
    ],
)
def test_nothing_to_learn_from(tmp_path: Path, rows: list[object], message: str) -> None:
    with pytest.raises(DataError, match=message) as refused:
        load(write_lines(tmp_path / "law.jsonl", *rows))
    assert refused.value.where == str(tmp_path / "law.jsonl")


def test_a_validation_file_without_text(tmp_path: Path) -> None:
    write_lines(tmp_path / "train.jsonl", {"text": "a"}, {"text": "b"})
    write_lines(tmp_path / "dev.jsonl")
    with pytest.raises(DataError, match="the validation split is empty"):
        load(tmp_path / "train.jsonl")


def test_paths_that_hold_no_corpus(tmp_path: Path) -> None:
    (tmp_path / "law.pdf").write_text("%PDF")
    (tmp_path / "mixed").mkdir()
    (tmp_path / "mixed/a.txt").write_text("a")
    (tmp_path / "mixed/b.jsonl").write_text("{}")
    for path, message in (
        (tmp_path / "absent.txt", "no such file or folder"),
        (tmp_path / ("x" * 300), "cannot read the corpus: File name too long"),
        (tmp_path / "law.pdf", "not a kind of file"),
        (Path("/dev/null"), "a device, not a regular file"),
        (tmp_path, "several kinds: .jsonl, .txt"),
    ):
        with pytest.raises(DataError, match=message) as refused:
            load(path)
        assert str(path) == refused.value.where
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="the folder holds no corpus") as refused:
        load(tmp_path / "empty")
    assert str(refused.value.allowed).startswith(".txt, .jsonl, .ndjson, .json, .parquet, all but the last")
