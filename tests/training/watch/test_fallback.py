"""The emergency shift's contract: what calls for it, what does not, and where it leads."""

from __future__ import annotations

import json
import math

import pytest

from altgrad_cli.errors import ConfigError
from altgrad_cli.formats import FORMAT_REGISTRY
from altgrad_cli.training.watch.fallback import FORMAT_FALLBACK, EmergencyMantissaShift, StallWindow


def answers(shift, batches, format_name="E7M0"):
    """``batches``: 'x' for a NaN batch, '.' for a good one."""
    return [shift.check_and_shift(format_name, batch == "x", 0.0) for batch in batches]


def test_the_chain():
    assert FORMAT_FALLBACK == {"E7M0": "E5M2", "E1M6": "E3M4", "E0M7": "E3M4", "E3M4": "E5M2", "E5M2": None}
    assert {name for pair in FORMAT_FALLBACK.items() for name in pair if name} <= set(FORMAT_REGISTRY)


def test_silent_on_healthy_batches():
    shift = EmergencyMantissaShift()
    assert answers(shift, "." * 50) == [None] * 50
    assert shift.consecutive_nans == 0


def test_three_nans_in_a_row_shift():
    shift = EmergencyMantissaShift()
    assert answers(shift, "xxx") == [None, None, "E5M2"]
    assert shift.last_trigger == "nan"
    assert shift.consecutive_nans == 0  # the count starts anew after a shift


def test_a_good_batch_between_resets():
    shift = EmergencyMantissaShift()
    assert answers(shift, "x.xx") == [None] * 4
    assert shift.consecutive_nans == 2


@pytest.mark.parametrize(
    "rate, target", [(0.5, None), (0.51, "E5M2"), (1.0, "E5M2"), (None, None), (math.nan, None)]
)
def test_stall_is_compared_strictly(rate, target):
    assert EmergencyMantissaShift().check_and_shift("E7M0", False, rate) == target


def test_either_trigger_suffices():
    shift = EmergencyMantissaShift()
    assert shift.check_and_shift("E1M6", True, 0.9) == "E3M4"
    assert shift.last_trigger == "stall"


@pytest.mark.parametrize("name", ["E5M2", "BF16", "E4M3", "no such format", "E3M4:ieee"])
def test_no_fallback_is_no_shift_and_the_count_goes_on(name):
    shift = EmergencyMantissaShift()
    assert answers(shift, "xxxx", name) == [None] * 4
    assert shift.check_and_shift(name, True, 1.0) is None
    assert shift.consecutive_nans == 5


@pytest.mark.parametrize("name, target", FORMAT_FALLBACK.items())
def test_every_format_shifts_to_its_fallback(name, target):
    assert EmergencyMantissaShift().check_and_shift(name, False, 0.9) == target


def test_patience_and_threshold_can_be_set():
    assert answers(EmergencyMantissaShift(nan_patience=1), "x") == ["E5M2"]
    assert EmergencyMantissaShift(stall_threshold=0.9).check_and_shift("E7M0", False, 0.9) is None


def test_reset_forgets_the_nans():
    shift = EmergencyMantissaShift()
    answers(shift, "xx")
    shift.reset()
    assert answers(shift, "xx") == [None, None]


def test_patience_survives_saving_and_loading():
    shift = EmergencyMantissaShift()
    answers(shift, "xx")
    fresh = EmergencyMantissaShift()
    fresh.load_state_dict(json.loads(json.dumps(shift.state_dict())))
    assert answers(fresh, "x") == ["E5M2"]


@pytest.mark.parametrize(
    "settings", [{"nan_patience": 0}, {"stall_threshold": -0.1}, {"stall_threshold": 1.1}]
)
def test_settings_without_meaning_are_refused(settings):
    with pytest.raises(ConfigError, match="is not allowed"):
        EmergencyMantissaShift(**settings)


def test_the_window_speaks_when_it_is_full_and_after_warm_up():
    window = StallWindow(length=4)
    assert [window.update(0.9, warmed_up=False) for _ in range(6)] == [None] * 6
    rates = [0.1, 0.2, 0.3, 0.4, 0.9]
    means = [window.update(rate, warmed_up=True) for rate in rates]
    assert means[:3] == [None] * 3
    assert means[3:] == [pytest.approx(0.25), pytest.approx(0.45)]


def test_the_window_starts_again_after_a_gap_or_a_shift():
    window = StallWindow(length=2)
    window.update(0.5, warmed_up=True)
    assert window.update(None, warmed_up=True) is None
    assert window.update(0.5, warmed_up=True) is None
    assert window.update(0.7, warmed_up=True) == pytest.approx(0.6)
    window.reset()
    assert window.update(0.7, warmed_up=True) is None


def test_the_window_has_20_steps_and_survives_saving_and_loading():
    window = StallWindow()
    for _ in range(19):
        assert window.update(0.6, warmed_up=True) is None
    fresh = StallWindow()
    fresh.load_state_dict(json.loads(json.dumps(window.state_dict())))
    assert fresh.update(0.6, warmed_up=True) == pytest.approx(0.6)
