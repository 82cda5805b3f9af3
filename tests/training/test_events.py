"""Events as lines of JSON: non-finite numbers as words, null for what was not measured, nothing lost."""

from __future__ import annotations

import json
import math
from dataclasses import FrozenInstanceError, fields

import pytest

from altgrad_cli.training.events import (
    EVENTS,
    Alert,
    Event,
    RunEnded,
    StepCompleted,
    event_from_json,
    event_to_json,
    from_json_value,
    to_json_value,
)

STEP = StepCompleted(
    step=3,
    metrics={"loss": math.nan, "gradient_sqnr": math.inf, "low": -math.inf, "rate": 0.0, "absent": None},
    layers={"bit_stall_rate": [0.5, None, math.nan]},
    committed=False,
    format="E7M0",
)


def test_the_words_for_numbers_json_does_not_have() -> None:
    line = event_to_json(STEP)
    assert line["metrics"] == {
        "loss": "NaN",
        "gradient_sqnr": "Infinity",
        "low": "-Infinity",
        "rate": 0.0,
        "absent": None,
    }
    assert line["layers"] == {"bit_stall_rate": [0.5, None, "NaN"]}
    assert line["event"] == "step"
    json.dumps(line, allow_nan=False)  # strict JSON


def test_a_line_read_back_is_the_event() -> None:
    back = event_from_json(json.loads(json.dumps(event_to_json(STEP))))
    assert isinstance(back, StepCompleted)
    assert math.isnan(back.metrics["loss"])  # type: ignore[arg-type]
    assert back.metrics["gradient_sqnr"] == math.inf
    assert back.metrics["low"] == -math.inf
    assert back.metrics["absent"] is None
    assert back.metrics["rate"] == 0.0
    assert math.isnan(back.layers["bit_stall_rate"][2])  # type: ignore[arg-type]
    assert back.committed is False


def test_every_kind_has_its_own_word_and_a_step() -> None:
    assert len(EVENTS) == len({kind.kind for kind in EVENTS.values()}) == 7
    for word, kind in EVENTS.items():
        assert issubclass(kind, Event)
        assert kind.kind == word
        assert "step" in {item.name for item in fields(kind)}


def test_keys_of_a_later_version_are_passed_over() -> None:
    line = event_to_json(STEP) | {"invented_later": 1}
    assert event_to_json(event_from_json(line)) == event_to_json(STEP)


def test_an_unknown_kind_of_event_is_an_error() -> None:
    with pytest.raises(KeyError):
        event_from_json({"event": "no such event", "step": 1})


def test_layer_names_and_reasons_stay_text() -> None:
    alert = Alert(
        step=1,
        name="stall",
        metric="bit_stall_rate",
        layer="lm_head",
        value=0.6,
        threshold=0.5,
        state="raised",
    )
    assert event_from_json(event_to_json(alert)) == alert
    ended = RunEnded(
        step=9,
        outcome="collapsed",
        reason="the loss is nan",
        collapse={"class": "nonfinite"},
        formats=[(0, "E7M0")],
    )
    back = event_from_json(json.loads(json.dumps(event_to_json(ended))))
    assert isinstance(back, RunEnded)
    assert back.reason == "the loss is nan"
    assert [tuple(entry) for entry in back.formats] == [(0, "E7M0")]


@pytest.mark.parametrize(
    "value", [0, 1, True, None, "word", 1e308, -0.0, [1, [2.5]], {"a": {"b": [math.inf]}}]
)
def test_plain_values_survive(value: object) -> None:
    assert from_json_value(json.loads(json.dumps(to_json_value(value)))) == value


def test_tuples_and_keys_become_what_json_has() -> None:
    assert to_json_value({1: (1.5, math.nan)}) == {"1": [1.5, "NaN"]}


def test_events_cannot_be_changed_by_a_listener() -> None:
    with pytest.raises(FrozenInstanceError):
        STEP.step = 4  # type: ignore[misc]
