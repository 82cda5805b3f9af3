"""`altgrad claims`: what is listed, measured, printed and refused. Nothing here trains."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from altgrad_cli.claims import every
from altgrad_cli.claims.every import CLAIMS
from altgrad_cli.commands.app import app
from tests.claims.planted import PlantedBench


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["claims", *arguments])


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every run ends at the same loss."""
    monkeypatch.setattr("altgrad_cli.claims.bench.Bench._make", PlantedBench._make)
    monkeypatch.setattr(
        "altgrad_cli.claims.bench.Bench._plan",
        (lambda arm: 2.0, lambda arm: 0, lambda arm: {}, 0.5),
        raising=False,
    )


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


def test_ctrl_c_is_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(bench: object) -> None:
        raise KeyboardInterrupt

    claim = CLAIMS["shrinkage"]
    monkeypatch.setattr(every, "CLAIMS", {"shrinkage": type(claim)(**_fields(claim), measure=interrupted)})
    result = run("shrinkage")
    assert (result.exit_code, result.stdout) == (130, "")
    assert result.stderr.endswith("interrupted\n")


def _fields(claim: object) -> dict[str, object]:
    names = ("name", "sentence", "source", "here", "conditions", "trains")
    return {name: getattr(claim, name) for name in names}
