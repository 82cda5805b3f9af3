"""Which format gains from which rule: the sentence, the table and the picture against losses made up here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from altgrad_cli.config.loading import load_config
from altgrad_cli.reporting.blocks import figures
from altgrad_cli.reporting.blocks.document import Block, Picture, Section, Table, Text
from altgrad_cli.reporting.blocks.sources import without_sources
from altgrad_cli.reporting.evidence.scope import Scope, judged
from altgrad_cli.reporting.pages.comparison.rules_section import best_rules, rules_section
from altgrad_cli.reporting.render.pictures import to_png, to_svg
from altgrad_cli.runs.record import read_run
from altgrad_cli.sweeps.results import assemble
from altgrad_cli.sweeps.specification import SweepSpec
from tests.sweeps.conftest import WriteLog, write_log  # noqa: F401

LOSSES = {
    ("fp32", "adamw"): (2.0, 2.1),
    ("fp32", "lion"): (2.2, 2.3),
    ("e5m2", "adamw"): (2.1, 2.2),
    ("e5m2", "lion"): (2.05, 2.15),
    ("e5m2", "compensated"): (2.04, 2.16),
    ("e7m0", "adamw"): (2.6, 2.8),
    ("e7m0", "lion"): (2.7, 2.8),
    ("e7m0", "compensated"): (2.3, 2.3),
}


@pytest.fixture
def scope(write_log: WriteLog, tmp_path: Path) -> Scope:  # noqa: F811
    asked = SweepSpec(
        base=load_config("base", ["optimizer.residual=bf16"]),
        order=("E5M2", "E7M0"),
        rules=("adamw", "lion", "compensated"),
        seeds=(42, 43),
        retries=False,
    )
    records = {}
    for result in assemble(tmp_path, asked, {}).unfinished:
        arm = result.arm
        kind, rule = arm.name.partition("-")[0], arm.config.optimizer.rule
        loss = LOSSES.get((kind, rule), (3.0, 3.0))[arm.config.seed - 42]
        records[arm.name] = read_run(write_log(arm.name, config=arm.config, validation={3: loss}))
    arms = {arm.name: arm for arm in assemble(tmp_path, asked, records).planned}
    return Scope(judged(records, arms), ())


@pytest.fixture
def made(scope: Scope) -> Section:
    section = rules_section(scope)
    assert section is not None
    return section


@pytest.fixture
def opening(scope: Scope) -> tuple[Block, ...]:
    blocks = best_rules(scope)
    assert blocks is not None
    return blocks


def test_the_report_opens_with_who_gains_and_the_best_rule_of_each_format(opening: tuple[Block, ...]) -> None:
    text, _, table = opening
    assert isinstance(text, Text) and isinstance(table, Table)
    # That of E7M0 is larger, 0.400 ± 1.271, and inside the noise.
    assert without_sources(text.markdown) == "2 seeds: E5M2 gains 0.050 ± 0 nats by `lion`."
    # fp32 and E5M2 with lion: 2.05 - 2.0 and 2.15 - 2.1; E7M0 compensated: (0.3, 0.2)
    assert table.labels == ("fp32-adamw", "e5m2-uniform-lion", "e7m0-uniform-compensated")
    assert [row[-2] for row in table.cells] == ["0", "0.050", "0.250"]


def test_the_largest_gain_comes_first(made: Section) -> None:
    answer = without_sources(
        next(b.markdown for b in made.blocks if isinstance(b, Text) and "gains" in b.markdown)
    )
    first, second = answer.splitlines()
    # E7M0: (2.6 - 2.3, 2.8 - 2.3) is 0.4, half interval 12.71 * std / sqrt 2; left (0.3, 0.2)
    assert first == (
        "- **E7M0** gains 0.400 ± 1.271 nats by `compensated` over `adamw` (2 seeds, one text: inside the "
        "noise); 0.250 to the best fp32 are left."
    )
    assert second.startswith("- **E5M2** gains 0.050")


def test_a_row_has_the_gap_to_the_best_fp32_and_its_bits(made: Section) -> None:
    table = next(block for block in made.blocks if isinstance(block, Table))
    headers = [column.header for column in table.columns]
    rows = dict(zip(table.labels, table.cells, strict=True))
    assert len(rows) == 8  # the fp32 of compensation is AdamW's
    row = dict(zip(headers, rows["e7m0-uniform-compensated"], strict=True))
    assert (row["rule"], row["bits a weight"], row["loss"], row["gap"]) == (
        "compensated",
        "88",
        "2.300",
        "0.250",
    )


def test_the_picture_joins_the_lowest_points_of_a_format(opening: tuple[Block, ...]) -> None:
    figure = next(block.figure for block in opening if isinstance(block, Picture))
    assert isinstance(figure, figures.TradeFigure)
    trades = {trade.label: trade for trade in figure.trades}
    assert figure.title == "Lowest: E5M2 with lion, +0.050 ± 0.000 nats, above the best fp32"
    e7m0 = trades["E7M0"]
    assert dict(zip(e7m0.names, e7m0.x, strict=True)) == {"adamw": 72, "lion": 40, "compensated": 88}
    assert [e7m0.names[index] for index in e7m0.front] == ["lion", "adamw", "compensated"]
    assert to_png(figure).startswith(b"\x89PNG")
    svg, hover = to_svg(figure)
    assert "E7M0" in svg and any(
        "E7M0 with compensated\n88 bits, +0.250 nats" in text for *_, text in hover["points"]
    )


def test_a_point_is_on_the_line_if_none_with_as_few_bits_is_as_low() -> None:
    x, y = np.array([72.0, 72.0, 40.0]), np.array([0.3, 0.1, 0.5])
    trade = figures.Trade("E7M0", x, y, np.zeros(3), ("a", "b", "c"), "#000000")
    assert trade.front == [2, 1]
    dominated = figures.Trade("E7M0", x, np.array([0.6, 0.7, 0.5]), np.zeros(3), ("a", "b", "c"), "#000000")
    assert dominated.front == [2]
