"""What a report says of a run whose trouble sits in some layers, from real training of seconds."""

from __future__ import annotations

from pathlib import Path

import pytest

from altgrad_cli.reporting.blocks.sources import without_sources
from altgrad_cli.reporting.evidence.scope import gather
from altgrad_cli.reporting.render.markdown import to_markdown
from altgrad_cli.reporting.report import build_report
from altgrad_cli.reporting.verify import check
from altgrad_cli.runs.folder import create_run
from altgrad_cli.runs.record import RunRecord, read_run
from altgrad_cli.runs.run import carry_out
from altgrad_cli.sweeps.results import assemble, write_sweep
from altgrad_cli.sweeps.specification import SweepSpec
from tests.small import small

SPOILED = "{pattern: blocks.0.mlp.c_proj, format: E1M6, roles: [gradients], scaling: none}"
COARSE = "{pattern: blocks.0.mlp.c_proj, format: E7M0, roles: [gradients], scaling: none}"


def carried_out(folder: Path, rule: str) -> Path:
    """The sweep over ``rule`` alone, with ``--attribute``, in ``folder``."""
    base = small("max_steps=8", "precision.regime=fp32", f"precision.rules=[{rule}]")
    spec = SweepSpec(base=base, retries=False, attribute=True)
    records: dict[str, RunRecord] = {}
    folder.mkdir()
    while (result := assemble(folder, spec, records)).unfinished:
        for due in result.unfinished:
            carry_out(due.arm.config, create_run(folder / due.arm.name, due.arm.config))
            records[due.arm.name] = read_run(folder / due.arm.name)
    write_sweep(result, "finished")
    return folder


@pytest.fixture(scope="module")
def spoiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return carried_out(tmp_path_factory.mktemp("planted") / "spoiled", SPOILED)


def test_the_role_the_layers_and_the_rescue_are_named(spoiled: Path) -> None:
    markdown = to_markdown(build_report([spoiled]), None)
    text = without_sources(markdown)
    assert "In `e1m6-fp32`" in text
    assert "the gradients show underflow to zero: underflow G" in text
    assert "**gradient fidelity** fails in **blocks.0.mlp.c_proj**: `fp32` leaves the gradients" in text
    assert "what blocks.0.mlp.c_proj lost, by the agreement of its gradient with the float32 shadow" in text
    assert "noise makes of it" in text
    assert "| norm ratio" in text


def test_the_named_layers_are_verified_like_a_number(spoiled: Path) -> None:
    markdown = to_markdown(build_report([spoiled]), None)
    scope = gather([spoiled])
    _, differences = check(markdown, scope)
    assert not differences
    named = 'attributed_layers(gradients)">blocks.0.mlp.c_proj'
    assert named in markdown
    _, differences = check(markdown.replace(named, named.replace("c_proj", "c_fc")), scope)
    assert differences


def test_the_report_of_the_run_says_the_same(spoiled: Path) -> None:
    text = without_sources(to_markdown(build_report([spoiled / "e1m6-fp32"]), None))
    assert "**gradient fidelity** fails in **blocks.0.mlp.c_proj**" in text
    assert "altgrad sweep --attribute` makes them" not in text


def test_a_rule_that_does_no_damage_is_said_to_do_none(tmp_path: Path) -> None:
    folder = carried_out(tmp_path / "coarse", COARSE)
    text = without_sources(to_markdown(build_report([folder]), None))
    assert "nothing is named: in no layer does a rounded role reach an underflow of 0.5" in text
    assert "fails in" not in text
