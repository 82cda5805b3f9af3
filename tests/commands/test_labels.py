"""The second task as a user meets it: one run, one sweep, its report, and a checkpoint of it opened."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from altgrad_cli.commands.app import app
from altgrad_cli.metrics.thresholds import ENDS_APART_FROM_LABELS
from tests.small import ARGUMENTS, LABELS


def altgrad(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def test_a_run_says_its_scores_and_the_gpt_says_none(tmp_path: Path) -> None:
    found = altgrad("train", *ARGUMENTS, *LABELS, "--json", "--out", str(tmp_path / "labels"))
    assert found.exit_code == 0, found.stderr
    last = [
        line
        for line in map(json.loads, (tmp_path / "labels/events.jsonl").read_text("utf-8").splitlines())
        if line["event"] == "evaluated"
    ][-1]
    document = json.loads(found.stdout)
    assert {key: document[key] for key in ("micro_f1", "macro_f1")} == last["scores"]
    assert "micro f1" in found.stderr and last["perplexity"] is None
    shown = altgrad("train", *ARGUMENTS, *LABELS, "-q", "--out", str(tmp_path / "shown"))
    assert f"micro F1 {last['scores']['micro_f1']:.3f}, macro F1" in shown.stdout
    plain = altgrad("train", *ARGUMENTS, "--json", "-q", "--out", str(tmp_path / "text"))
    assert json.loads(plain.stdout)["micro_f1"] is None


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    out = tmp_path_factory.mktemp("labels") / "sweep"
    longer = ("max_steps=40", "learning_rate=3e-3", "runtime.evaluation_interval=20")
    order = ("--order=e5m2", "--no-retries", "--jobs=1")
    result = altgrad("sweep", *ARGUMENTS, *LABELS, *longer, *order, "--out", str(out))
    assert result.exit_code == 0, result.stderr
    return out, result


def test_a_sweep_has_controls_scores_and_rho_or_why_none(swept: tuple[Path, Result]) -> None:
    out, result = swept
    arms = json.loads((out / "sweep.json").read_text("utf-8"))["arms"]
    assert {arm["name"] for arm in arms} == {"fp32", "bf16", "frozen", "e5m2-uniform"}
    assert all(0 <= arm["micro_f1"] <= 1 and 0 <= arm["macro_f1"] <= 1 for arm in arms)
    assert "F1" in result.stdout and "nats per label" in " ".join((result.stdout + result.stderr).split())
    losses = {arm["name"]: arm["val_loss"] for arm in arms}
    studied = next(arm for arm in arms if arm["name"] == "e5m2-uniform")
    gap = losses["frozen"] - losses["fp32"]
    if gap >= ENDS_APART_FROM_LABELS:
        expected = (losses["frozen"] - losses["e5m2-uniform"]) / gap
        assert studied["recovered_fraction"] == pytest.approx(expected)
    else:
        assert f"less than {ENDS_APART_FROM_LABELS}" in studied["no_verdict_because"]


def test_its_report_speaks_of_labels_and_verifies(swept: tuple[Path, Result], tmp_path: Path) -> None:
    page = tmp_path / "labels.md"
    written = altgrad("report", str(swept[0]), "--markdown", str(page))
    assert written.exit_code == 0, written.stderr
    tables = sorted((tmp_path / "labels").glob("*.csv"))
    text = "".join(path.read_text("utf-8") for path in (page, *tables))
    assert "micro f1" in text.lower() and "perplexity" not in text
    checked = altgrad("report", "--verify", str(page))
    assert checked.exit_code == 0, checked.output


def test_a_run_of_another_subject_is_no_control(swept: tuple[Path, Result]) -> None:
    from altgrad_cli.config.loading import load_config
    from altgrad_cli.sweeps.arms import Arm, control_config, find_controls

    base = load_config("base")
    control = Arm(name="fp32", kind="control", config=control_config(base, "fp32"))
    assert find_controls(base, [control]) == {"fp32": "fp32"}
    assert find_controls(load_config("base", ["subject=eurovoc"]), [control]) == {}
