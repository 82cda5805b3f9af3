"""Documents and labels in every published layout, held against the files as JSON shows them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from altgrad_cli.config.data import DataConfig
from altgrad_cli.errors import ConfigError, DataError
from altgrad_cli.subjects.corpus.corpus_files import find_files
from altgrad_cli.subjects.corpus.documents import Documents, load_documents
from altgrad_cli.subjects.corpus.records import Reading
from altgrad_cli.subjects.corpus.tokens import load_corpus
from altgrad_cli.subjects.eurovoc.classifier import PAD
from altgrad_cli.subjects.eurovoc.labelled_corpus import learnt_labels, load_labelled_corpus
from altgrad_cli.subjects.legal_english.legislator import STATUTES, draft_statute_book
from tests.small import LABELLED


def labelled(path: Path) -> Documents:
    return load_documents(find_files(path), Reading(labels=True), 0.1)


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


@pytest.mark.parametrize("name", ["eurlex57k", "eurlex_cellar"])
def test_eurlex57k_lines(shared_data: Path, name: str) -> None:
    found = labelled(shared_data / name / "train.jsonl")
    for labels, split in ((found.train_labels, "train"), (found.validation_labels, "dev")):
        expected = [tuple(row["eurovoc_concepts"]) for row in rows(shared_data / name / f"{split}.jsonl")]
        assert labels == expected and any(labels)
    assert len(found.train_labels) == len(found.train)


def test_multi_eurlex_has_the_labels_of_all_levels(shared_data: Path) -> None:
    found = labelled(shared_data / "multi_eurlex/train.jsonl")
    concepts = [row["eurovoc_concepts"] for row in rows(shared_data / "multi_eurlex/train.jsonl")]
    assert found.train_labels == [tuple(levels["all_levels"]) for levels in concepts]


def test_lexglue_archive(shared_data: Path) -> None:
    path = shared_data / "lexglue_eurlex/eurlex.jsonl"
    found = labelled(path)
    expected = {row["text"]: tuple(row["labels"]) for row in rows(path)}
    assert found.train_labels == [expected[text] for text in found.train]
    assert found.validation_labels == [expected[text] for text in found.validation]


@pytest.mark.parametrize("name", ["eurlex57k_loaded", "coastalcph_lex_glue"])
def test_the_published_sets_as_parquet(shared_data: Path, name: str) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    found = labelled(shared_data / "hub_layout" / name)
    expected = {}
    for file in (shared_data / "hub_layout" / name).rglob("*.parquet"):
        for row in parquet.read_table(file).to_pylist():
            labels = row["labels"] if "labels" in row else row["eurovoc_concepts"]
            expected[row["text"]] = tuple(str(label) for label in labels)
    assert found.train_labels == [expected[text] for text in found.train]
    assert any(found.train_labels) and len(found.validation_labels) == len(found.validation)


def test_the_original_archive(tmp_path: Path) -> None:
    for split, number in (("train", 1), ("train", 2), ("dev", 3)):
        folder = tmp_path / split
        folder.mkdir(exist_ok=True)
        record = {"main_body": [f"act {number}"], "concepts": [str(number), 7, "7"], "recitals": ""}
        (folder / f"{number}.json").write_text(json.dumps(record), encoding="utf-8")
    found = labelled(tmp_path)
    assert found.train_labels == [("1", "7"), ("2", "7")]
    assert found.validation_labels == [("3", "7")]


def test_labels_are_read_only_where_they_are_asked_for(shared_data: Path) -> None:
    path = shared_data / "eurlex57k/train.jsonl"
    plain = load_documents(find_files(path), Reading(), 0.1)
    assert (plain.train_labels, plain.validation_labels) == ([], [])
    assert plain.train == labelled(path).train


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([{"text": "a"}, {"text": "b"}], "no document has labels"),
        ([{"text": "a", "labels": "law"}, {"text": "b"}], "the field labels holds str, not labels"),
        ([{"text": "a", "labels": [1.5]}], "the field labels holds list, not labels"),
        ([{"text": "a", "labels": {"level_1": ["x"]}}], "the field labels holds dict, not labels"),
        ([{"text": "a", "labels": ["x"]}], "the validation split is empty"),  # one document is not cut in two
    ],
)
def test_what_has_no_labels_is_refused(tmp_path: Path, records: list[object], message: str) -> None:
    path = tmp_path / "law.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    with pytest.raises(DataError, match=message) as refused:
        labelled(path)
    assert str(path) in str(refused.value.where)


def test_labels_that_no_two_training_documents_share_are_nothing_to_learn(tmp_path: Path) -> None:
    path = tmp_path / "law.jsonl"
    path.write_text("".join(json.dumps({"text": f"{k}", "labels": [k]}) + "\n" for k in range(9)), "utf-8")
    with pytest.raises(DataError, match="no label stands on 2 of the 8 training documents"):
        load_labelled_corpus(DataConfig(path=str(path)), 8)


def test_the_most_frequent_labels_are_learnt_ties_by_name_none_of_a_single_document() -> None:
    given = [["b", "a"], ["a", "c"], ["b", "c", "c"], ["a", "d"]]
    assert learnt_labels(given, 100) == ("a", "b", "c")
    assert learnt_labels(given, 2) == ("a", "b")


def small_corpus(**settings: Any) -> Any:
    return load_labelled_corpus(DataConfig(path=str(LABELLED), **settings), 16)


def test_documents_are_their_first_tokens_and_their_labels() -> None:
    corpus = small_corpus()
    records = {row["text"]: row.get("eurovoc_concepts") for row in rows(LABELLED)}
    labelled_texts = [text for text, labels in records.items() if labels is not None]
    shown = []
    for documents in (corpus.train_documents, corpus.validation_documents):
        for tokens, targets in zip(documents.tokens.tolist(), documents.labels.tolist(), strict=True):
            start = bytes(token for token in tokens if token != PAD).decode()
            assert len(start) == 16 or start in labelled_texts  # what is padded is all of it
            assert tokens[len(start) :] == [PAD] * (16 - len(start))
            text = next(text for text in labelled_texts if text.startswith(start) and text not in shown)
            shown.append(text)
            of_it = {name for name, value in zip(corpus.names, targets, strict=True) if value}
            assert of_it == set(records[text] or ()) & set(corpus.names)
    assert sorted(shown) == sorted(labelled_texts)
    assert any(PAD in row for row in corpus.train_documents.tokens.tolist())
    assert not corpus.train_documents.labels.any(axis=1).all()  # those without a label stay
    in_training = shown[: len(corpus.train_documents.tokens)]
    counts = Counter(label for text in in_training for label in records[text] or ())
    assert set(corpus.names) == {label for label, count in counts.items() if count >= 2}
    assert "1 without labels left out" in corpus.source and "labels, " in corpus.source


def test_a_batch_is_drawn_again_by_its_numbers_and_from_the_cache() -> None:
    corpus, again = small_corpus(), small_corpus()
    batch = corpus.train_documents.draw(5, torch.Generator().manual_seed(1))
    other = again.train_documents.batch_at(batch.offsets)
    assert torch.equal(batch.x, other.x) and torch.equal(batch.y, other.y)
    assert (batch.x.dtype, batch.y.dtype) == (torch.int64, torch.float32)
    assert again.fingerprint == corpus.fingerprint


def test_other_labels_are_another_corpus_and_a_limit_is_not(tmp_path: Path) -> None:
    changed = LABELLED.read_text("utf-8").replace('"teapot"', '"Teapot"')
    (tmp_path / "labelled.jsonl").write_text(changed, "utf-8")
    other = load_labelled_corpus(DataConfig(path=str(tmp_path / "labelled.jsonl")), 16)
    few = small_corpus(labels=2)
    assert other.fingerprint != few.fingerprint == small_corpus().fingerprint
    assert few.train_documents.labels.shape[1] == 2
    assert few.names == small_corpus().names[:2]
    with pytest.raises(ConfigError, match="labels = 0"):
        DataConfig(labels=0)


def test_the_halves_of_the_validation_documents_have_none_in_common() -> None:
    whole = small_corpus(validation_fraction=0.3).validation_documents.tokens.tolist()
    first, second = (
        small_corpus(validation_fraction=0.3, evaluate_on=part).validation_documents.tokens.tolist()
        for part in ("tuning", "final")
    )
    assert first + second == whole and first and second


def test_the_embedded_acts_are_labelled_with_what_they_were_drawn_to_be() -> None:
    corpus = load_labelled_corpus(DataConfig(), 64)
    matters = {row["thing"][0] for row in STATUTES}
    assert {"Regulation", "Directive", "Decision", "Commission"} <= set(corpus.names)
    for act in draft_statute_book(40):
        matter, kind, body = act.labels
        assert matter in matters
        assert act.text.startswith(f"{kind.upper()} (EU)") and f" OF THE {body.upper()}\n" in act.text
        assert f"‘{matter}’ means" in act.text
    plain = load_corpus(DataConfig(), 64)
    assert len(corpus.train) == len(plain.train) - 2 * (len(corpus.train_documents.tokens) - 1)  # blank lines
