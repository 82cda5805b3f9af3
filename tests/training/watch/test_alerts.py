"""Alerts fire on crossing and on recovery, and at no other step."""

from __future__ import annotations

import json
import math

import pytest

from altgrad_cli.metrics.spec import AlertRule
from altgrad_cli.training.watch.alerts import ALERTS, Alerts


def states(alerts, metric, values, layer=None):
    """The state reported at each step: 'raised', 'cleared' or None."""
    reported = [alerts.update({metric: value}, layer) for value in values]
    assert all(len(changes) <= 1 for changes in reported)
    return [changes[0].state if changes else None for changes in reported]


RULE = {"bit_stall_rate": AlertRule("stall", 0.5, 0.4, clear_steps=2)}


def test_raised_once_and_cleared_once():
    values = [0.5, 0.51, 0.9, 0.9, 0.3, 0.3, 0.3]
    expected = [None, "raised", None, None, None, "cleared", None]
    assert states(Alerts(RULE), "bit_stall_rate", values) == expected


def test_hovering_at_the_threshold_raises_once():
    assert states(Alerts(RULE), "bit_stall_rate", [0.51, 0.49] * 20) == ["raised"] + [None] * 39


def test_recovery_has_to_last():
    values = [0.6, 0.3, 0.6, 0.3, 0.3]
    assert states(Alerts(RULE), "bit_stall_rate", values) == ["raised", None, None, None, "cleared"]


def test_it_can_be_raised_again():
    alerts = Alerts(RULE)
    assert states(alerts, "bit_stall_rate", [0.6, 0.1, 0.1, 0.6]) == ["raised", None, "cleared", "raised"]
    assert alerts.active == (("bit_stall_rate", None),)


def test_layers_and_roles_are_followed_apart():
    alerts = Alerts()
    changes = alerts.update({"overflow_rate/gradients": 0.02, "overflow_rate/weights": 0.0}, "blocks.0.c_fc")
    assert [(c.kind, c.metric, c.layer, c.value, c.threshold, c.state) for c in changes] == [
        ("overflow", "overflow_rate/gradients", "blocks.0.c_fc", 0.02, 0.01, "raised")
    ]
    assert len(alerts.update({"overflow_rate/gradients": 0.02}, "blocks.1.c_fc")) == 1
    assert len(alerts.update({"overflow_rate/gradients": 0.02})) == 1
    assert len(alerts.active) == 3


@pytest.mark.parametrize("value", [None, math.nan])
def test_what_was_not_measured_changes_nothing(value):
    alerts = Alerts(RULE)
    assert states(alerts, "bit_stall_rate", [value, 0.6, value, value, value]) == [
        None,
        "raised",
        None,
        None,
        None,
    ]


def test_unwatched_metrics_are_ignored():
    assert Alerts().update({"loss": 1e9, "apparent_stall_rate": 1.0, "gradient_norm": math.inf}) == []


@pytest.mark.parametrize(
    "metric, calm, alarming",
    [
        ("overflow_rate/gradients", 0.01, 0.011),
        ("underflow_rate/weights", 0.01, 0.011),
        ("bit_stall_rate", 0.5, 0.501),
        ("dead_neurons", 0, 1),
        ("rising_loss", 0, 1),
        ("divergence", 0, 1),
    ],
)
def test_the_studys_thresholds_are_exceeded_strictly(metric, calm, alarming):
    assert states(Alerts(), metric, [calm, calm, alarming, alarming]) == [None, None, "raised", None]


def test_every_rule_can_recover():
    assert all(alert.clears_at <= alert.above for alert in ALERTS.values())


def test_state_survives_saving_and_loading():
    alerts = Alerts(RULE)
    states(alerts, "bit_stall_rate", [0.6, 0.3], "blocks.0.c_fc")
    fresh = Alerts(RULE)
    fresh.load_state_dict(json.loads(json.dumps(alerts.state_dict())))
    assert states(fresh, "bit_stall_rate", [0.3, 0.3], "blocks.0.c_fc") == ["cleared", None]


# --- the rule of exposed layers -------------------------------------------------------------------------


def test_an_exposed_layer_is_watched_by_the_stricter_rule():
    """Between the two levels the exposed layer alone warns; each clears at its own."""
    values = [0.3, 0.45, 0.55, 0.38, 0.38, 0.31, 0.31]
    alerts = Alerts(exposed=["lm_head"])
    head = states(alerts, "effective_rank_fall", values, "lm_head")
    fed = states(alerts, "effective_rank_fall", values, "blocks.0.mlp.c_fc")
    run = states(alerts, "effective_rank_fall", values)
    assert head == [None, "raised", None, None, None, None, "cleared"]
    assert fed == run == [None, None, "raised", None, "cleared", None, None]


def test_the_threshold_of_an_alert_is_that_of_its_rule():
    alerts = Alerts(exposed=["lm_head"])
    changes = [alerts.update({"effective_rank_fall": 0.6}, layer)[0] for layer in ("lm_head", "c_fc")]
    assert [(change.kind, change.threshold) for change in changes] == [
        ("falling_rank", 0.4),
        ("falling_rank", 0.5),
    ]


def test_a_rule_without_a_stricter_one_is_the_same_for_every_layer():
    assert states(Alerts(RULE, exposed=["a"]), "bit_stall_rate", [0.5, 0.51], "a") == [None, "raised"]


def test_a_stricter_rule_is_stricter_and_can_recover():
    rules = [(rule, rule.exposed) for rule in ALERTS.values() if rule.exposed]
    assert rules
    assert all(strict.clears_at < strict.above < rule.above for rule, strict in rules)
