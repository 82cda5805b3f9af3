"""A real sweep over two texts, from the runs to the line a format and the headline."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from altgrad_cli.commands.views.sweep_tables import formats_table, table_notes
from altgrad_cli.commands.views.sweep_view import SweepView
from altgrad_cli.reporting.render.markdown import to_markdown
from altgrad_cli.reporting.report import build_report
from altgrad_cli.runs.record import read_run
from altgrad_cli.sweeps.engine import run_sweep
from altgrad_cli.sweeps.format_verdicts.words import format_verdicts
from altgrad_cli.sweeps.specification import SweepSpec
from tests.small import LAW, small
from tests.sweeps.test_tuned_sweep import InThisProcess


def test_two_texts_from_runs_to_words(tmp_path: Path) -> None:
    base = small("data.path=null", "use_shadow=false", "max_steps=4", "runtime.evaluation_interval=2")
    asked = SweepSpec(base=base, order=("E7M0",), texts=("embedded", str(LAW)), retries=False)
    folder = tmp_path / "texts"
    folder.mkdir()
    view = SweepView(Console(), quiet=True)
    record = run_sweep(asked, folder, InThisProcess(), view).record  # type: ignore[arg-type]
    (found,) = format_verdicts(record.planned, record.findings)
    assert (found.arm, [each.text for each in found.texts]) == ("e7m0-uniform", ["embedded", "small"])
    for each in found.texts:
        ours, fp32 = (read_run(folder / f"{name}-{each.text}") for name in ("e7m0-uniform", "fp32"))
        assert each.gap.differences == ((ours.validation.at(4) or 0) - (fp32.validation.at(4) or 0),)
    assert found.evidence.endswith("one seed, one rate: a measurement, not a verdict")
    table = formats_table(record)
    assert table is not None and table.row_count == 1
    assert any(found.evidence in note for note in table_notes(record))
    assert found.evidence in to_markdown(build_report([folder]), "texts")
