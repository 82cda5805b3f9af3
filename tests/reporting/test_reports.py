"""What reports say: every section that the study asks for, from what was measured and from nothing else."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from altgrad_cli.errors import UsageError
from altgrad_cli.reporting.blocks.document import Report
from altgrad_cli.reporting.blocks.sources import without_sources
from altgrad_cli.reporting.evidence.scope import Scope, gather
from altgrad_cli.reporting.render.json import to_json
from altgrad_cli.reporting.render.markdown import to_markdown, write_markdown
from altgrad_cli.reporting.render.terminal import renderables
from altgrad_cli.reporting.report import build_report, report_on, write_failure_report
from altgrad_cli.reporting.verify import verify
from tests.reporting.recorded import config, record, record_sweep

GOLDEN = Path(__file__).with_name("golden")


def titles(report: Report) -> list[str]:
    return [section.title for section in report.sections]


def shown(report: Report, title: str | None = None) -> str:
    """The report (or one section, to the next) as a reader sees it, long tables too."""
    text = re.sub(r"<!--.*?-->\n?", "", without_sources(to_markdown(report, None)))
    if title is None:
        return text
    return text.split(f"<summary>{title}</summary>\n", 1)[1].split("<summary>", 1)[0]


@pytest.fixture(scope="module")
def failure(sweep: Path) -> Report:
    return build_report([sweep / "e7m0-uniform"])


@pytest.mark.parametrize("name", ["comparison", "failure"])
def test_golden(sweep: Path, name: str) -> None:
    """The whole text. ALTGRAD_REFRESH_GOLDEN=1 writes it anew: read the difference before it is committed."""
    report = build_report([sweep] if name == "comparison" else [sweep / "e7m0-uniform"])
    text = to_markdown(report, name).replace(str(sweep), "sweep")
    golden = GOLDEN / f"{name}.md"
    if os.environ.get("ALTGRAD_REFRESH_GOLDEN") == "1":
        GOLDEN.mkdir(exist_ok=True)
        golden.write_text(text, encoding="utf-8")
    assert text == golden.read_text(encoding="utf-8")


def test_a_failure_report_has_every_part_the_study_asks_for(failure: Report) -> None:
    assert failure.title == "Failure report: e7m0-uniform"
    assert titles(failure) == [
        "Summary", "Attribution", "Course", "Gradient sparsity", "Zero-update regions", "Layers", "Codes",
        "Rank", "Last measurements", "Predicted stall", "Warnings", "Interventions", "Recommendation",
        "Limits", "Configuration", "Reproduce",
    ]  # fmt: skip


def test_the_summary_states_step_class_losses_and_controls(failure: Report) -> None:
    text = shown(failure, "Summary")
    assert "E7M0 (bias 63" in text
    assert "stall_collapse from the start, detected at step 80" in text
    assert "validation 2.921 at step 120" in text
    assert "control `fp32` 2.029" in text
    assert "control `frozen` 3.021" in text
    assert "rho = 0.1 at step 120" in text
    assert "**failed**; cause: stalled" in text
    assert "training loss just before the collapse" not in text, "it began with the first step"


def test_the_trend_is_that_of_the_last_five_measurements(failure: Report) -> None:
    rows = [
        line for line in shown(failure, "Last measurements").splitlines() if re.match(r"\| +\d|\| \d", line)
    ]
    assert [int(row.split("|")[1]) for row in rows] == [40, 60, 80, 100, 120]


def test_missing_is_a_dash_and_never_zero(failure: Report) -> None:
    rows = shown(failure, "Layers").splitlines()
    header = next(row for row in rows if row.startswith("| layer"))
    head = next(row for row in rows if row.startswith("| `lm_head`"))
    cells = dict(
        zip([c.strip() for c in header.split("|")], [c.strip() for c in head.split("|")], strict=True)
    )
    assert cells["bit-stall"] == cells["tau"] == "–"
    assert cells["overflow G"] == "0", "measured, and nothing overflowed"


def test_the_configuration_is_whole_and_can_be_read_back(failure: Report, sweep: Path) -> None:
    block = re.search(r"```yaml\n(.*?)```", to_markdown(failure, None), re.DOTALL)
    assert block is not None
    assert yaml.safe_load(block[1]) == gather([sweep]).evidence.run("e7m0-uniform").config


def test_the_advice_follows_from_the_cause_and_names_what_was_tested(failure: Report, sweep: Path) -> None:
    stalled = shown(failure, "Recommendation")
    assert "precision.rounding=stochastic" in stalled
    assert "`e7m0-uniform-rescue-stochastic` (regime uniform, rounding stochastic) reached rho 0.9" in stalled
    nonfinite = shown(build_report([sweep / "e3m4-uniform"]), "Recommendation")
    assert "forensic checkpoint" in nonfinite
    assert "stochastic" not in nonfinite


@pytest.mark.parametrize(
    ("values", "cause", "advice"),
    [
        (
            {"underflow": 0.8, "stall": 0.5, "transfer": 0.9},
            "underflowed",
            "precision.scaling.recipe=delayed",
        ),
        ({"stall": 0.9, "transfer": 0.5}, "slowed", "give it back"),
        ({"stall": 0.9, "transfer": 0.9}, "unexplained", "sweep --attribute"),
    ],
)
def test_each_cause_has_its_own_advice(
    tmp_path: Path, values: dict[str, float], cause: str, advice: str
) -> None:
    sweep = record_sweep(tmp_path / "sweep")
    record(sweep / "probe", config("uniform", "E6M1"), floor=2.9, **values)  # type: ignore[arg-type]
    report = build_report([sweep, sweep / "probe"])
    text = shown(report, "Failure report: probe")
    assert f"cause: {cause}" in text
    assert advice in text


def test_a_run_without_controls_is_only_suspected(tmp_path: Path) -> None:
    run = record(tmp_path / "alone", config(), floor=2.9, stall=0.995, transfer=0.006)
    report = build_report([run])
    assert report.title == "Run report: alone"
    text = shown(report)
    assert "**Verdict**: no verdict: no fp32 and frozen control of the same seed and settings" in text
    assert "suspected cause: stalled" in text
    assert "it is open how much was lost" in text
    assert "was not tested" in text, "no stage is named without the runs that show it"


def test_a_healthy_run_is_not_called_a_failure(sweep: Path) -> None:
    report = build_report([sweep / "e5m2-uniform"])
    assert report.title == "Run report: e5m2-uniform"
    assert "Recommendation" not in titles(report)
    assert "**trained**" in shown(report)


def test_planted_faults_are_said_at_the_top(tmp_path: Path) -> None:
    run = record(
        tmp_path / "faulty", config(inject=("nan@60:blocks.0.attn.c_attn:gradients",)), floor=2.9, stall=0.9,
        transfer=0.5, steps=60, nonfinite_at=(60,), collapse={"class": "nonfinite", "step": 60},
    )  # fmt: skip
    report = build_report([run])
    assert "Faults were planted" in shown(report, "Summary")
    assert "nan@60:blocks.0.attn.c_attn:gradients" in shown(report, "Interventions")
    assert "checkpoints/anomaly_step_60.pt" in shown(report, "Reproduce")


def test_a_shifted_run_keeps_its_format_and_counts_its_interventions(sweep: Path) -> None:
    report = build_report([sweep / "e7m0-uniform-intervened"])
    text = shown(report)
    assert "E7M0 (bias 63" in text
    assert "in force: E7M0, E5M2 from step 40" in text
    assert "Emergency shift: armed, acted 1 times" in text


def test_runs_with_an_armed_intervention_are_told_beside_those_without(tmp_path: Path) -> None:
    plain = record(tmp_path / "plain", config(), floor=2.9)
    armed = record(tmp_path / "armed", config(enable_partition_clipping=True), floor=2.9)
    text = shown(build_report([plain, armed]), "Retries")
    assert "armed" in text and "clips that bound" in text
    assert "plain" not in text and "follows" not in text


def test_a_comparison_has_its_parts_and_names_the_stage(scope: Scope) -> None:
    report = report_on(scope)
    assert titles(report) == [
        "Verdicts", "Loss", "Attribution", "Retries", "Layers", "Codes", "Predicted stall", "Layer types",
        "Failures", "Limits", "Reproduce",
    ]  # fmt: skip
    assert "the **optimizer update** fails" in shown(report, "Attribution")
    assert "altgrad sweep --order e5m2,e7m0,e3m4 --with-interventions --attribute" in shown(
        report, "Reproduce"
    )


def test_seeds_are_compared_pair_by_pair(tmp_path: Path) -> None:
    report = build_report([record_sweep(tmp_path / "sweep", seeds=(42, 43, 44))])
    text = shown(report, "Seeds")
    assert re.search(r"\| `e5m2-uniform` +\| +3 \|", text), "a row is named by its arm, not by its seeds"
    assert "`e7m0-uniform-seed42` minus `e5m2-uniform-seed42`" in text
    assert "half of its Student-t interval" in text
    assert "outside the noise" in text
    assert "Several seeds were run" in shown(report, "Limits")


def test_an_unfinished_run_is_reported_as_such(tmp_path: Path) -> None:
    run = record(
        tmp_path / "going", config(), floor=2.5, stall=0.9, transfer=0.5, steps=35, outcome="unfinished"
    )
    assert "**Outcome**: unfinished" in shown(build_report([run]))


def test_the_terminal_shows_the_same_at_any_width(scope: Scope) -> None:
    for width in (60, 100, 200):
        console = Console(width=width, record=True, file=Path(os.devnull).open("w"))  # noqa: SIM115
        for item in renderables(report_on(scope)):
            console.print(item)
        text = console.export_text()
        console.file.close()
        assert max(map(len, text.splitlines())) <= width
        assert "unexplained" in text, "the last column of the widest table"
        assert "<span" not in text
        assert "<!--" not in text


def test_json_gives_every_number_its_source(failure: Report) -> None:
    document = to_json(failure)
    summary = document["sections"][0]["blocks"][0]
    assert {"value": "80", "source": "e7m0-uniform: collapse.detected"} in summary["values"]
    table = next(block for block in document["sections"][3]["blocks"] if block["kind"] == "table")
    assert len(table["sources"]) == len(table["columns"]) - 1 == len(table["rows"][0]) - 1


def test_the_failure_report_lies_in_the_runs_folder(tmp_path: Path) -> None:
    sweep = record_sweep(tmp_path / "sweep")
    path = write_failure_report(sweep / "e7m0-uniform", sweep_dir=sweep)
    assert path == sweep / "e7m0-uniform" / "failure_report.md"
    linked = re.findall(r"\]\((failure_report/[^)]+\.png)\)", path.read_text())
    assert len(linked) > 3
    assert all((path.parent / picture).is_file() for picture in linked)
    assert not verify(path).differences
    moved = sweep.rename(tmp_path / "elsewhere")
    assert not verify(moved / "e7m0-uniform" / "failure_report.md").differences, "the folder may be moved"


def test_what_is_neither_run_nor_sweep_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="neither a run nor a sweep"):
        build_report([tmp_path])
    (tmp_path / "events.jsonl").write_text("")
    with pytest.raises(UsageError, match="no run has begun"):
        build_report([tmp_path])


def test_paths_are_named_so_that_a_report_can_be_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No folder of this machine: logs as seen from the report, commands from the working directory."""
    record_sweep(tmp_path / "sweeps" / "law")
    monkeypatch.chdir(tmp_path)
    write_markdown(build_report([tmp_path / "sweeps" / "law"]), Path("reports/law.md"), pictures=False)
    text = Path("reports/law.md").read_text()
    assert str(tmp_path) not in text
    assert text.startswith("<!-- altgrad report; computed from the logs in: ../sweeps/law -->")
    assert "altgrad report sweeps/law/e7m0-uniform" in text
    monkeypatch.chdir("/")
    assert not verify(tmp_path / "reports" / "law.md").differences


def test_a_report_may_be_cut_to_sections_by_the_beginning_of_their_titles(scope: Scope) -> None:
    whole = report_on(scope)
    cut = whole.only(["verdict", "Repro"])
    assert [section.title for section in cut.sections] == ["Verdicts", "Reproduce"]
    assert whole.only([]) == whole
    with pytest.raises(UsageError, match="no section begins with 'verdikt'") as caught:
        whole.only(["verdikt"])
    assert "Verdicts" in str(caught.value.allowed)
