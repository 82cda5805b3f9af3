"""When non-finite steps end a run, by policy."""

from __future__ import annotations

import json

import pytest

from altgrad_cli.errors import ConfigError
from altgrad_cli.training.watch.fallback import EmergencyMantissaShift
from altgrad_cli.training.watch.nonfinite import NonfinitePolicy, is_baseline, next_streak, resolve_patience


def stops_at(policy, steps):
    """1-based number of the step that stops the run, or None; 'x' is a non-finite step."""
    return next((number for number, step in enumerate(steps, 1) if policy.update(step == "x")), None)


@pytest.mark.parametrize(
    "policy, shift, baseline, patience",
    [
        ("auto", False, False, 1),
        ("auto", False, True, 10),
        ("auto", True, False, 10),
        ("patience", False, False, 10),
        ("first", False, True, 1),
    ],
)
def test_patience_by_policy(policy, shift, baseline, patience):
    assert resolve_patience(policy, shift_enabled=shift, baseline=baseline) == patience
    made = NonfinitePolicy(policy, shift_enabled=shift, baseline=baseline)
    assert stops_at(made, "." * 5 + "x" * 20) == 5 + patience


def test_first_with_the_shift_is_refused():
    with pytest.raises(ConfigError, match="before the emergency shift"):
        NonfinitePolicy("first", shift_enabled=True)


def test_a_good_step_ends_the_streak():
    policy = NonfinitePolicy("patience")
    assert stops_at(policy, ("x" * 9 + ".") * 4) is None
    assert (policy.streak, policy.total) == (0, 36)
    assert [next_streak(4, True), next_streak(4, False)] == [5, 0]


@pytest.mark.parametrize(
    "regime, name, baseline",
    [
        ("fp32", "E7M0", True),
        ("bf16", "E7M0", True),
        ("uniform", "E5M2", True),
        ("standard", "BF16", True),
        ("uniform", "E7M0", False),
        ("postln", "E1M6", False),
    ],
)
def test_baselines(regime, name, baseline):
    assert is_baseline(regime, name) is baseline


def test_with_the_shift_three_shift_and_ten_without_fallback_stop():
    """The two counters side by side, as the engine runs them: E7M0 -> E5M2, then nowhere left to go."""
    policy, shift, current = NonfinitePolicy("auto", shift_enabled=True), EmergencyMantissaShift(), "E7M0"
    timeline = []
    for step in range(1, 30):
        target = shift.check_and_shift(current, True, None)
        if target:
            current = target
            policy.reset()
            timeline.append((step, target))
        elif policy.update(True):
            timeline.append((step, "stop"))
            break
    assert timeline == [(3, "E5M2"), (13, "stop")]


def test_the_streak_survives_saving_and_loading():
    policy = NonfinitePolicy("patience")
    stops_at(policy, "x" * 9)
    fresh = NonfinitePolicy("patience")
    fresh.load_state_dict(json.loads(json.dumps(policy.state_dict())))
    assert fresh.update(True)
    assert fresh.total == 10
