"""Stall collapse, divergence and the rising loss: silent on healthy runs, dated right, and saved."""

from __future__ import annotations

import json
import math

import pytest

from altgrad_cli.training.watch.collapse import (
    Divergence,
    RisingLoss,
    StallCollapse,
    is_full_speed,
    stall_onset,
)


def collapse_of(steps, *, full_speed=lambda step: True):
    """(step at which it was detected, onset) for a list of (tau, stall), or None."""
    rule = StallCollapse()
    for step, (tau, stall) in enumerate(steps, 1):
        detected = rule.update(step, tau, stall, full_speed=full_speed(step))
        if detected is not None:
            assert stall_onset([(s, *values) for s, values in enumerate(steps, 1)], detected) == rule.onset
            return detected, rule.onset
    return None


def test_a_run_that_freezes_is_dated_to_its_first_window():
    assert collapse_of([(5.0, 0.6)] * 30 + [(0.0, 1.0)] * 60) == (80, 31)


@pytest.mark.parametrize("tau, stall", [(0.08, 0.99), (0.42, 0.82), (0.02, 0.97), (0.031, 1.0)])
def test_stall_alone_or_low_transfer_alone_is_no_collapse(tau, stall):
    assert collapse_of([(tau, stall)] * 500) is None


def test_the_window_is_judged_by_its_means():
    # two moving steps out of fifty leave mean tau at 0.02 and mean stall at 0.984
    assert collapse_of([(0.5, 0.6)] * 30 + [(0.0, 1.0)] * 60) == (78, 29)


def test_the_limits_belong_to_the_collapse():
    assert collapse_of([(0.03, 0.98)] * 50) == (50, 1)


def test_steps_at_low_speed_detect_nothing_but_may_be_where_it_began():
    frozen = [(0.0, 1.0)] * 120
    assert collapse_of(frozen, full_speed=lambda step: step > 60) == (110, 1)
    assert collapse_of(frozen, full_speed=lambda step: step % 40 != 0) is None


def test_the_onset_lies_after_the_last_window_that_still_moved():
    moving, frozen = [(0.5, 0.6)] * 20, [(0.0, 1.0)]
    steps = frozen * 60 + moving + frozen * 200
    assert collapse_of(steps, full_speed=lambda step: step > 150) == (200, 79)
    assert collapse_of(steps, full_speed=lambda step: step > 100) == (150, 79)


def test_a_state_saved_before_the_onset_was_kept_is_read():
    rule = StallCollapse()
    rule.load_state_dict({"steps": [[step, 0.0, 1.0] for step in range(101, 141)], "collapsed_at": None})
    detected = [rule.update(step, 0.0, 1.0, full_speed=True) for step in range(141, 152)]
    assert [step for step in detected if step] == [150]
    assert rule.onset == 101, "what lay before its window is not in that state"
    rule.load_state_dict({"steps": [[step, 0.0, 1.0] for step in range(121, 171)], "collapsed_at": 101})
    assert (rule.onset, rule.detected) == (101, 150)


@pytest.mark.parametrize("gap", [(None, 1.0), (0.0, None)])
def test_a_step_that_was_not_measured_empties_the_window(gap):
    assert collapse_of([(0.0, 1.0)] * 49 + [gap] + [(0.0, 1.0)] * 49) is None


def test_nan_is_no_collapse():
    assert collapse_of([(math.nan, 1.0)] * 60) is None


def test_a_collapse_is_reported_once():
    rule = StallCollapse()
    found = [rule.update(step, 0.0, 1.0, full_speed=True) for step in range(1, 120)]
    assert [detected for detected in found if detected is not None] == [50]
    assert (rule.detected, rule.onset) == (50, 1)


def test_full_speed_is_after_warm_up_and_at_half_the_peak():
    assert not is_full_speed(100, 100, 6e-4, 6e-4)
    assert is_full_speed(101, 100, 6e-4, 6e-4)
    assert is_full_speed(400, 100, 3e-4, 6e-4)
    assert not is_full_speed(400, 100, 2.9e-4, 6e-4)


def test_divergence_needs_fifty_steps():
    flag = Divergence(smoothing=0.0)
    assert not any(flag.update(2.0) for _ in range(100))
    states = [flag.update(3.1) for _ in range(51)]
    assert states == [False] * 49 + [True, True]
    assert flag.update(2.0) is False


def test_one_and_a_half_times_the_best_is_not_yet_divergence():
    flag = Divergence(smoothing=0.0)
    flag.update(2.0)
    assert not any(flag.update(3.0) for _ in range(100))


def test_divergence_is_judged_on_the_smoothed_loss():
    flag = Divergence(steps=1)
    flag.update(1.0)
    assert flag.update(5.0) is False  # 0.9 * 1 + 0.1 * 5 = 1.4
    assert flag.update(5.0) is True


def test_a_nonfinite_loss_neither_raises_nor_clears_divergence():
    flag = Divergence(smoothing=0.0, steps=2)
    states = [flag.update(loss) for loss in (1.0, 9.0, math.nan, math.inf, 9.0)]
    assert states == [False, False, False, False, True]


def test_a_loss_that_rises_ten_steps_in_a_row():
    rising = RisingLoss()
    assert [rising.update(float(step)) for step in range(12)] == [False] * 10 + [True, True]
    assert rising.update(3.0) is False


@pytest.mark.parametrize("interruption", [9.0, 8.5, math.nan])
def test_a_plateau_a_drop_or_a_nan_ends_the_rise(interruption):
    rising = RisingLoss()
    losses = [*range(10), interruption, *range(10, 19)]
    assert not any(rising.update(float(loss)) for loss in losses)


@pytest.mark.parametrize("make", [StallCollapse, Divergence, RisingLoss])
def test_state_survives_saving_and_loading(make):
    def advance(rule, step):
        if isinstance(rule, StallCollapse):
            return rule.update(step, 0.0, 1.0, full_speed=True)
        return rule.update(1.0 if step == 1 else float(10 + step))

    whole, first, second = make(), make(), make()
    expected = [advance(whole, step) for step in range(1, 80)]
    found = [advance(first, step) for step in range(1, 9)]
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    found += [advance(second, step) for step in range(9, 80)]
    assert found == expected
    assert any(expected)
