from __future__ import annotations

import io
import math
import re
from dataclasses import replace

import pytest
from rich.console import Console

from altgrad_cli.runs.loggers.live import ECHO, LiveView, sparkline, worst_layers
from altgrad_cli.training.events import (
    Alert,
    Evaluated,
    InterventionApplied,
    RunEnded,
    RunStarted,
    StepCompleted,
)


def started() -> RunStarted:
    return RunStarted(
        step=0,
        config={},
        layers=["a", "b"],
        precision=[],
        init_hash="",
        parameters=1234,
        corpus={},
        predicted_stall=None,
        environment={},
        injections=["nan@3"],
    )


def step(number: int, *, loss: float = 2.0, committed: bool = True) -> StepCompleted:
    return StepCompleted(
        step=number,
        metrics={"loss": loss, "tokens_per_second": 4000.0, "bit_stall_rate": 0.75},
        layers={"bit_stall_rate": [0.25, 0.875], "gradient_cosine": [0.5, None]},
        committed=committed,
        format="E7M0",
    )


def alert(layer: str | None, state: str = "raised") -> Alert:
    return Alert(
        step=1, name="stall", metric="bit_stall_rate", layer=layer, value=0.9, threshold=0.5, state=state
    )


def shown(*events: object, quiet: bool = False, terminal: bool = False, width: int = 100) -> str:
    file = io.StringIO()
    console = Console(file=file, width=width, force_terminal=terminal, color_system=None)
    view = LiveView(console, 10, quiet=quiet)
    for event in events:
        view.receive(event)  # type: ignore[arg-type]
    if view._live is not None:
        view._live.refresh()
    view.close()
    return file.getvalue()


def test_without_a_terminal_there_are_plain_lines() -> None:
    text = shown(
        started(),
        step(1),
        *(alert(layer) for layer in (None, "a", "b")),
        Evaluated(step=1, validation_loss=2.5, validation_loss_master=None, perplexity=None),
        InterventionApplied(
            step=2, name="emergency_shift", details={"from": "E7M0", "to": "E5M2", "stall": 0.75}
        ),
        InterventionApplied(step=2, name="rescale", details={"layer": "a"}),
        step(3, loss=math.nan, committed=False),
        RunEnded(step=3, outcome="collapsed", reason="non-finite", collapse={}, formats=[(0, "E7M0")]),
    )
    assert "\x1b" not in text
    assert text.splitlines() == [
        "1,234 parameters, 2 linear layers, start",
        "with injected faults: nan@3",
        "step 1/10, loss 2.0000, 4,000 tokens/s, stall 0.750",
        "step 1: alert raised: stall (bit_stall_rate) up to 0.9 in 2 layers",
        "step 1: validation loss 2.5000",
        "step 2: emergency shift: from E7M0, to E5M2, stall 0.75",
        "step 3: not finite, the update was dropped",
        "step 3: collapsed: non-finite",
    ]


def test_quiet_is_quiet() -> None:
    assert shown(started(), step(1), alert("a"), quiet=True) == ""
    assert shown(started(), step(1), alert("a"), quiet=True, terminal=True) == ""


def test_on_a_terminal_the_panel_has_what_matters() -> None:
    text = shown(started(), *(step(n) for n in range(1, 8)), terminal=True)
    for part in (
        "step 7/10",
        "left",
        "4,000 tokens/s",
        "loss 2.0000",
        "worst bit-stall",
        "b 0.875",
        "worst cosine",
    ):
        assert part in text
    assert "\x1b[?25h" in text  # the cursor is back


@pytest.mark.parametrize("width", [40, 60, 80])
def test_a_narrow_terminal_cuts_no_layer_s_name_and_no_word(width: int) -> None:
    names = ["blocks.0.attn.c_attn", "blocks.11.attn.c_proj", "blocks.1.mlp.c_proj"]
    rates: dict[str, list[float]] = {"bit_stall_rate": [0.00685, 0.914, 0.5]}
    events = [replace(started(), layers=names), replace(step(7), layers=rates)]
    text = shown(*events, alert("blocks.11.attn.c_proj"), terminal=True, width=width)
    assert "11 attn.c_proj 0.914" in text
    assert "\u2026" not in text
    lines = [re.sub(r"\x1b\[[^a-zA-Z]*[a-zA-Z]", "", line) for line in text.splitlines()]
    panel = [line for line in lines if "worst" in line]
    assert max(map(len, panel)) <= width - len(ECHO), "the terminal's own ^C at its end must not begin a line"
    said = "step 1: alert raised: stall (bit_stall_rate) up to 0.9 in blocks.11.attn.c_proj"
    assert said in " ".join(line.strip() for line in lines)
    assert max(map(len, lines)) <= width


@pytest.mark.parametrize(
    ("values", "bars"),
    [
        ([0, 1, 2, 3, 4, 5, 6, 7], "▁▂▃▄▅▆▇█"),
        ([1, 1], "▁▁"),
        ([], ""),
        ([0, math.nan, 7], "▁!█"),
        ([math.inf], "!"),
    ],
)
def test_a_sparkline_shows_what_is_not_finite(values: list[float], bars: str) -> None:
    assert sparkline(values, 8) == bars


def test_a_long_sparkline_is_made_of_means() -> None:
    assert sparkline([0.0] * 50 + [1.0] * 50, 2) == "▁█"
    assert len(sparkline(range(1000), 48)) <= 48


def test_the_worst_layers_come_first_and_nan_before_all() -> None:
    rows = [[0.1, 0.9, None], [0.2, 0.3, math.nan]]
    names = ["a", "b", "c"]
    assert [name for name, _ in worst_layers(rows, names, high_is_bad=True)] == ["c", "b", "a"]
    assert worst_layers([[0.9, -0.1, 0.5]], names, high_is_bad=False, count=1) == [("b", -0.1)]
    assert worst_layers([], names, high_is_bad=True) == []


def test_a_quiet_run_still_prints_what_was_left_out() -> None:
    console = Console(file=io.StringIO(), width=200)
    view = LiveView(console, 5, quiet=True)
    view.say("a line of progress")
    view.warn("passed over 3 files")
    assert console.file.getvalue() == "warning: passed over 3 files\n"  # type: ignore[attr-defined]
