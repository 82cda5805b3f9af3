"""`altgrad claims`: what is listed, measured, printed and refused. Nothing here trains."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from altgrad_cli.claims import making
from altgrad_cli.claims.bench import RunKey
from altgrad_cli.claims.every import CLAIMS
from altgrad_cli.claims.making import Made
from altgrad_cli.commands.app import app
from tests.claims.planted import PlantedBench


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["claims", *arguments])


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every run ends at the same loss."""
    monkeypatch.setattr(making, "make_runs", lambda wanted, *_: PlantedBench().made(wanted))


def test_the_list_names_every_claim_and_its_source() -> None:
    result = run("--list", "--json")
    assert result.exit_code == 0
    listed = json.loads(result.stdout)
    assert listed["schema"] == "altgrad.claims-list/1"
    assert {row["name"]: row["source"] for row in listed["claims"]} == {
        name: claim.source for name, claim in CLAIMS.items()
    }
    shown = run("--list").stdout
    assert all(name in shown for name in CLAIMS)


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    result = run("shrinkge")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: unknown claim: shrinkge\n  allowed: accumulate, ")
    assert result.stderr.endswith("hint: did you mean shrinkage?\n")


def test_the_document_holds_what_the_verdict_follows_from() -> None:
    result = run("shrinkage", "--json")
    assert result.exit_code == 0
    (claim,) = json.loads(result.stdout)["claims"]
    assert (claim["name"], claim["verdict"], claim["scope"]) == (
        "shrinkage",
        "agrees",
        "10 draws, no training",
    )
    for condition in claim["conditions"]:
        assert condition["relation"] == "below"
        assert condition["holds"] == (condition["mean"] + condition["half_width"] < condition["bound"])
        assert len(condition["values"]) == 10
    assert "agrees" in result.stderr


@pytest.mark.usefixtures("planted")
def test_the_report_says_what_was_measured_and_where(tmp_path: Path) -> None:
    path = tmp_path / "claims.md"
    result = run("powers-of-two", "--markdown", str(path))
    assert result.exit_code == 0
    text = path.read_text("utf-8")
    assert "cannot tell" in text  # the blocks do not matter where every loss is the same
    assert CLAIMS["powers-of-two"].source in text
    assert "3 seeds, one text, one rate" in text
    assert "2.042 2.043 2.044" in text
    assert "Not asked for here: accumulate, " in text
    assert run("powers-of-two", "--markdown", str(path)).exit_code == 2  # it exists


def cut_short(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Ctrl-C comes after so many runs."""

    def runs(wanted: Sequence[RunKey], *_: object) -> Iterator[Made]:
        yield from PlantedBench().made(wanted[:after])
        raise KeyboardInterrupt

    monkeypatch.setattr(making, "make_runs", runs)


def test_ctrl_c_is_130_and_what_was_measured_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cut_short(monkeypatch, after=9)  # of fp32, frozen and E6M0 with three seeds, and of what comes after
    path = tmp_path / "claims.md"
    names = ("shrinkage", "powers-of-two", "noise-threshold")
    result = run(*names, "--markdown", str(path), "--json")
    assert result.exit_code == 130
    assert result.stderr.endswith("interrupted; not measured: noise-threshold\n")
    document = json.loads(result.stdout)
    assert [claim["name"] for claim in document["claims"]] == ["shrinkage", "powers-of-two"]
    assert document["not_measured"] == [{"name": "noise-threshold", "why": None}]
    text = path.read_text("utf-8")
    assert "**Not measured: noise-threshold.**" in text
    assert "| shrinkage" in text


def test_ctrl_c_before_anything_leaves_a_report_of_what_is_not_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_short(monkeypatch, after=0)
    path = tmp_path / "claims.md"
    result = run("powers-of-two", "--markdown", str(path))
    assert (result.exit_code, result.stdout) == (130, "")
    assert "**Not measured: powers-of-two.**" in path.read_text("utf-8")


def test_the_report_is_there_after_each_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is killed, and so cannot say goodbye, has left a report too."""
    path = tmp_path / "claims.md"
    found: list[str] = []

    def runs(wanted: Sequence[RunKey], *_: object) -> Iterator[Made]:
        for each in PlantedBench().made(wanted):
            found.append(path.read_text("utf-8"))
            yield each

    monkeypatch.setattr(making, "make_runs", runs)
    assert run("shrinkage", "powers-of-two", "fixed-point", "--markdown", str(path)).exit_code == 0
    assert "**Not measured: fixed-point, powers-of-two.**" in found[0]
    assert "**Not measured: powers-of-two.**" in found[-1]
    assert "Not measured" not in path.read_text("utf-8")


def test_a_failed_run_is_an_error_and_costs_its_claims_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def runs(wanted: Sequence[RunKey], *_: object) -> Iterator[Made]:
        yield from ((key, "the worker process was killed by signal 9") for key in wanted)

    monkeypatch.setattr(making, "make_runs", runs)
    result = run("shrinkage", "saturate", "--json")
    assert result.exit_code == 1
    assert result.stderr.endswith("error: saturate: the worker process was killed by signal 9\n")
    document = json.loads(result.stdout)
    assert [claim["name"] for claim in document["claims"]] == ["shrinkage"]
    assert document["not_measured"][0]["why"] == "the worker process was killed by signal 9"


@pytest.mark.usefixtures("planted")
def test_a_report_beside_replaces_nothing_that_is_not_its_own(tmp_path: Path) -> None:
    path = tmp_path / "claims.md"
    (tmp_path / "claims").mkdir()
    (tmp_path / "claims" / "claims.png").write_text("mine")
    assert run("shrinkage", "--markdown", str(path)).exit_code == 2
    assert not path.exists()
    assert run("shrinkage", "--markdown", str(path), "--force").exit_code == 0
