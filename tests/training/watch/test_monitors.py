"""The decisions of the loop: alerts on crossings, the shift, the plateau, what a resume remembers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from altgrad_cli.checkpoints.file import VerifiedCheckpoint
from altgrad_cli.config.run import TrainConfig
from altgrad_cli.errors import ConfigError
from altgrad_cli.formats import parse_format
from altgrad_cli.training import after_step, engine
from altgrad_cli.training.engine import train
from altgrad_cli.training.events import (
    Alert,
    CheckpointSaved,
    Evaluated,
    Event,
    InterventionApplied,
    RunEnded,
    StepCompleted,
)
from altgrad_cli.training.measuring.passes import Measurements
from altgrad_cli.training.state import TrainState
from altgrad_cli.training.watch.alerts import ALERTS
from altgrad_cli.training.watch.monitors import Monitors
from altgrad_cli.training.watch.validation import PLATEAU_EVALUATIONS, Evaluation
from tests.training.states import gpt_state

Tiny = Callable[..., TrainConfig]
FAST = ("runtime.evaluation_interval=100", "use_shadow=false", "diagnostic_interval=1000")


def ended(events: list[Event]) -> RunEnded:
    assert isinstance(events[-1], RunEnded)
    return events[-1]


def interventions(events: list[Event], name: str) -> list[InterventionApplied]:
    return [e for e in events if isinstance(e, InterventionApplied) and e.name == name]


# -- alerts ----------------------------------------------------------------------------------------------


def test_an_alert_fires_on_crossing_and_on_recovery_and_not_in_between(tiny: Tiny) -> None:
    config = tiny("fp8_format=E5M2")
    state = gpt_state(config)
    monitors = Monitors(config, state)
    rule = ALERTS["overflow_rate"]
    heard = []
    rates = [0.0, 0.01, 0.02, 0.5, 0.009, 0.02, *[0.0] * 7, 0.02]
    for step, rate in enumerate(rates):
        measured = Measurements(
            metrics={"overflow_rate/gradients": rate}, layers={"overflow_rate/gradients": [None, rate]}
        )
        changes = monitors.alert_changes(measured, 1.0, ["a", "b"])
        heard += [(step, change.layer, change.state) for change in changes]
    cleared = 5 + rule.clear_steps
    expected = [(2, "raised"), (cleared, "cleared"), (13, "raised")]
    assert [(step, state) for step, layer, state in heard if layer == "b"] == expected
    assert [(step, state) for step, layer, state in heard if layer is None] == expected
    assert not [entry for entry in heard if entry[1] == "a"], "null is no rate"


def test_alerts_of_a_run_alternate_between_raised_and_cleared(tiny: Tiny) -> None:
    config = tiny("fp8_format=E5M2", "max_steps=14", "inject=[amax@3:blocks.0.attn.c_attn:gradients]", *FAST)
    events = list(train(config))
    by_place: dict[tuple[str, str | None], list[str]] = {}
    for event in events:
        if isinstance(event, Alert):
            by_place.setdefault((event.metric, event.layer), []).append(event.state)
    assert ("overflow_rate/gradients", "blocks.0.attn.c_attn") in by_place
    for place, states in by_place.items():
        assert states == [("raised", "cleared")[index % 2] for index in range(len(states))], place
    assert by_place["overflow_rate/gradients", "blocks.0.attn.c_attn"][:1] == ["raised"]
    assert by_place["bit_stall_rate", None] == ["raised"], "E5M2 stalls and goes on stalling"


# -- the emergency shift in the loop -----------------------------------------------------------------------


def with_stall(monkeypatch: pytest.MonkeyPatch, rate: float) -> None:
    """Let every step of the loop measure this stall rate."""
    real = after_step.read_update

    def planted(state, step, *watchers):  # type: ignore[no-untyped-def]
        real(state, step, *watchers)
        step.summary.measured.metrics["bit_stall_rate"] = rate

    monkeypatch.setattr(after_step, "read_update", planted)


@pytest.mark.parametrize(("rate", "shifts"), [(0.5, []), (0.51, [20]), (0.0, [])])
def test_a_mean_stall_of_051_shifts_and_05_does_not(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, rate: float, shifts: list[int]
) -> None:
    with_stall(monkeypatch, rate)
    config = tiny("fp8_format=E7M0", "enable_emergency_shift=true", "max_steps=24", *FAST)
    events = list(train(config))
    found = interventions(events, "emergency_shift")
    assert [event.step for event in found] == shifts
    for event in found:
        assert event.details == {
            "from": "E7M0",
            "to": "E5M2",
            "trigger": "stall",
            "stall": pytest.approx(0.51),
        }


def test_the_stall_window_opens_after_the_warm_up(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    with_stall(monkeypatch, 0.9)
    base = ("fp8_format=E7M0", "enable_emergency_shift=true", "optimizer.warmup_steps=5", *FAST)
    assert not interventions(list(train(tiny(*base, "max_steps=24"))), "emergency_shift")
    found = interventions(list(train(tiny(*base, "max_steps=25"))), "emergency_shift")
    assert [event.step for event in found] == [25]


def test_without_the_switch_nothing_shifts(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    with_stall(monkeypatch, 1.0)
    events = list(train(tiny("fp8_format=E7M0", "max_steps=22", *FAST)))
    assert not interventions(events, "emergency_shift")
    assert list(ended(events).formats) == [(0, "E7M0")]


def spied_states(monkeypatch: pytest.MonkeyPatch) -> list[TrainState]:
    states: list[TrainState] = []
    real = engine.build_state

    def spy(*args):  # type: ignore[no-untyped-def]
        states.append(real(*args))
        return states[-1]

    monkeypatch.setattr(engine, "build_state", spy)
    return states


def test_a_shifted_run_goes_on_from_its_weights_on_the_new_grid(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_stall(monkeypatch, 0.9)
    states = spied_states(monkeypatch)
    config = tiny("fp8_format=E1M6", "enable_emergency_shift=true", "max_steps=23", *FAST)
    events = []
    for event in train(config):
        events.append(event)
        if isinstance(event, InterventionApplied) and event.name == "emergency_shift":
            state = states[0]
            assert (event.details["from"], event.details["to"]) == ("E1M6", "E3M4")
            assert state.format == "E3M4"
            assert {fmt.name for layer in state.plan.layers[:8] for _, fmt in layer.formats} == {"E3M4"}
            fmt = parse_format("E3M4")
            grid = {value for value in fmt.values() if math.isfinite(value)}
            for scale, view in zip(
                state.stored_scales, state.flat.linear_views(state.flat.values), strict=False
            ):
                assert scale is not None
                assert set((view.double() / scale).unique().tolist()) <= grid
                assert float(view.abs().max()) > 0
            assert all(not len(h) for row in state.scales.histories for h in row if h is not None)
            assert state.step == 20
            assert state.optimizer.steps == 20, "the optimizer goes on"
    steps = [e for e in events if isinstance(e, StepCompleted)]
    assert [e.format for e in steps] == ["E1M6"] * 20 + ["E3M4"] * 3
    assert [e.step for e in steps] == list(range(1, 24))
    assert [tuple(entry) for entry in ended(events).formats] == [(0, "E1M6"), (20, "E3M4")]
    # the next shift (E3M4 -> E5M2) needs a full window of its own
    assert len(interventions(events, "emergency_shift")) == 1


def test_the_shift_needs_the_monitors_that_feed_it(tiny: Tiny) -> None:
    with pytest.raises(ConfigError, match="monitors"):
        tiny("enable_emergency_shift=true", "monitors.enabled=false")
    assert tiny("enable_emergency_shift=true").enable_emergency_shift


# -- ends --------------------------------------------------------------------------------------------------


def with_validation(monkeypatch: pytest.MonkeyPatch, losses: list[float]) -> None:
    """Let the evaluations give these losses, one after the other."""
    queue = list(losses)
    monkeypatch.setattr(after_step, "evaluation_loss", lambda *args: torch.tensor(queue.pop(0)))


PLATEAU = ("precision.regime=fp32", "runtime.evaluation_interval=1", "use_shadow=false", "max_steps=12")


@pytest.mark.parametrize(
    ("losses", "outcome", "last"),
    [
        ([5.0, 4.0, *[4.0] * 20], "plateau", 6),  # five evaluations that are no better
        ([5.0, 4.0, 4.1, 4.1, 4.1, 4.1, 3.9, *[4.1] * 20], "plateau", 11),  # a gain starts the count again
        ([5.0 - 0.1 * n for n in range(30)], "completed", 12),
        ([math.nan, 4.0, 3.0, 2.0, 1.9, 1.8, *[1.8 - 0.01 * n for n in range(1, 20)]], "completed", 12),
    ],
)
def test_a_plateau_is_five_evaluations_without_gain(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, losses: list[float], outcome: str, last: int
) -> None:
    with_validation(monkeypatch, losses)
    events = list(train(tiny(*PLATEAU, "stop=plateau")))
    assert (ended(events).outcome, ended(events).step) == (outcome, last)
    assert PLATEAU_EVALUATIONS == 5


def test_a_plateau_ends_nothing_unless_asked(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    with_validation(monkeypatch, [4.0] * 20)
    assert ended(list(train(tiny(*PLATEAU)))).outcome == "completed"


def test_a_format_frozen_from_the_start_is_detected_after_the_warm_up(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = after_step.read_update

    def planted(state, step, *watchers):  # type: ignore[no-untyped-def]
        real(state, step, *watchers)
        step.summary.measured.metrics |= {"bit_stall_rate": 0.99, "update_transfer": 0.01}

    monkeypatch.setattr(after_step, "read_update", planted)
    events = list(train(tiny("fp8_format=E7M0", "optimizer.warmup_steps=3", "max_steps=54", *FAST)))
    assert ended(events).outcome == "collapsed"
    assert ended(events).collapse == {"class": "stall_collapse", "step": 1, "detected": 53}
    assert ended(events).step == 54, "it goes on to the end"


def test_a_baseline_waits_for_ten_and_an_exotic_format_for_none(tiny: Tiny) -> None:
    faults = ", ".join(f"nan@{step}:blocks.0.mlp.c_fc:activations" for step in range(2, 14))
    patient = ended(list(train(tiny("fp8_format=E5M2", "max_steps=14", f"inject=[{faults}]", *FAST))))
    assert (patient.outcome, patient.step) == ("collapsed", 11)
    assert patient.collapse == {"class": "nonfinite", "step": 2}
    exotic = ended(list(train(tiny("fp8_format=E3M4", "max_steps=14", f"inject=[{faults}]", *FAST))))
    assert (exotic.outcome, exotic.step) == ("collapsed", 2)


# -- what a resume remembers -------------------------------------------------------------------------------


def checkpoints(events: list[Event], folder: Path) -> dict[int, Path]:
    return {
        e.step: folder / e.path
        for e in events
        if isinstance(e, CheckpointSaved) and e.reason == "regular" and e.path
    }


def test_a_resume_from_the_last_checkpoint_takes_no_further_step(tiny: Tiny, tmp_path: Path) -> None:
    """As after a kill between the last checkpoint and the last event."""
    config = tiny("fp8_format=E3M4", "max_steps=3", "runtime.checkpoint_interval=1")
    straight = list(train(config, run_dir=tmp_path))
    path = checkpoints(straight, tmp_path)[3]
    again = list(train(config, run_dir=tmp_path, resume_from=VerifiedCheckpoint.read(path)))
    assert not [e for e in again if isinstance(e, StepCompleted | Evaluated)]
    assert ended(again) == ended(straight)


def test_a_resumed_run_clips_by_the_format_it_was_shifted_to(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_stall(monkeypatch, 0.9)
    config = tiny(
        "fp8_format=E7M0",
        "enable_emergency_shift=true",
        "enable_partition_clipping=true",
        "max_steps=23",
        "runtime.checkpoint_interval=21",
        "inject=[amax@23:blocks.0.attn.c_attn:gradients]",
        *FAST,
    )
    straight = list(train(config, run_dir=tmp_path))
    resumed = list(
        train(
            config, run_dir=tmp_path, resume_from=VerifiedCheckpoint.read(checkpoints(straight, tmp_path)[21])
        )
    )
    clips = [interventions(run, "range_clip") for run in (straight, resumed)]
    assert [clip.details["clip_threshold"] for clip in clips[0]] == [1.0], "E5M2's, no longer E7M0's"
    assert [clip.details for clip in clips[0]] == [clip.details for clip in clips[1]]


def test_counters_survive_in_the_state_of_the_monitors(tiny: Tiny) -> None:
    config = replace(tiny("fp8_format=E7M0", "enable_emergency_shift=true"))
    state = gpt_state(config)
    one, other = Monitors(config, state), Monitors(config, state)
    assert one.shift is not None and other.shift is not None
    for _ in range(2):
        assert one.shift.check_and_shift("E7M0", True, None) is None
        one.nonfinite.update(True)
    assert one.validation.update(3.0) == Evaluation(is_best=True, stale=False)
    assert one.validation.update(3.5) == Evaluation(is_best=False, stale=False)
    other.load_state_dict(one.state_dict())
    assert other.shift.check_and_shift("E7M0", True, None) == "E5M2", "two before, one after"
    assert other.nonfinite.streak == 2
    assert not other.validation.update(3.2).is_best
    assert [other.validation.update(math.nan).stale for _ in range(3)] == [False, False, True]


def test_starting_over_forgets_what_belonged_to_the_old_format(tiny: Tiny) -> None:
    config = tiny("fp8_format=E7M0", "enable_emergency_shift=true", "enable_partition_clipping=true")
    state = gpt_state(config)
    monitors = Monitors(config, state)
    for _ in range(19):
        monitors.stall_window.update(1.0, warmed_up=True)
    monitors.nonfinite.update(True)
    assert monitors.persistence is not None and monitors.clipper is not None
    monitors.persistence.age.fill_(50)
    state.formats.append((3, "E5M2"))
    monitors.start_over(config, state)
    assert monitors.stall_window.update(1.0, warmed_up=True) is None
    assert monitors.nonfinite.streak == 0
    assert not monitors.persistence.age.any()
    assert monitors.clipper.clip_threshold == 1.0
