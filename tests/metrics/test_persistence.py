"""Persistent stall, dead neurons and zero-update regions against plain loops over their definitions."""

from __future__ import annotations

import math

import pytest
import torch

from altgrad_cli.metrics.layer_sums import FlatLayout
from altgrad_cli.metrics.persistence import DeadNeurons, PersistentStall, ZeroUpdateRegions
from altgrad_cli.metrics.update import measure_updates

SHAPES = [(2, 4), (3, 4)]


def run_persistence(steps, *, seed=0):
    """Random stalls; returns the tracker and the whole history for the loop."""
    generator = torch.Generator().manual_seed(seed)
    layout = FlatLayout(SHAPES)
    w = torch.ones(layout.total)
    tracker = PersistentStall(layout, w)
    history = []
    for _ in range(steps):
        dw = torch.randn(layout.total, generator=generator) * 0.01
        changed = torch.rand(layout.total, generator=generator) < 0.05
        after = torch.where(changed, w + 1, w)
        measure_updates(layout, w, after, dw, dw, persistence=tracker)
        history.append((dw, changed))
        w = after
    return layout, tracker, history


@pytest.mark.parametrize("patience", [1, 10, 25])
def test_persistent_stall_agrees_with_a_loop(patience):
    layout, tracker, history = run_persistence(40)
    gaps = torch.full((layout.total,), 0.2)
    stuck = []
    for index in range(layout.total):
        pushed, age = 0.0, 0
        for dw, changed in history:
            pushed, age = (0.0, 0) if changed[index] else (pushed + abs(dw[index].item()), age + 1)
        stuck.append(pushed > 0.1 and age >= patience)
    expected = [sum(stuck[:8]) / 8, sum(stuck[8:]) / 12]
    assert tracker.rates(gaps, steps=patience).tolist() == pytest.approx(expected)
    assert any(stuck)


def test_a_weight_that_was_hardly_pushed_is_not_persistently_stalled():
    layout = FlatLayout([(1, 2)])
    tracker = PersistentStall(layout, torch.zeros(2))
    w, dw = torch.ones(2), torch.tensor([1e-2, 1e-5])
    for _ in range(100):
        measure_updates(layout, w, w, dw, dw, persistence=tracker)
    assert tracker.rates(torch.full((2,), 0.5)).tolist() == [0.5]
    tracker.reset()
    assert tracker.rates(torch.full((2,), 0.5)).tolist() == [0.0]


def test_99_steps_are_not_yet_persistent():
    layout = FlatLayout([(1, 1)])
    tracker = PersistentStall(layout, torch.zeros(1))
    w = torch.ones(1)
    rates = []
    for _ in range(100):
        measure_updates(layout, w, w, w, w, persistence=tracker)
        rates.append(tracker.rates(torch.ones(1)).item())
    assert rates == [0.0] * 99 + [1.0]


def test_dead_neurons_need_consecutive_quiet_steps():
    layout = FlatLayout([(2, 4), (1, 4)])
    dead = DeadNeurons(layout, steps=3)
    quiet, loud = 9e-9, 1e-8
    steps = [[quiet, quiet, quiet], [quiet, loud, quiet], [quiet, quiet, quiet], [quiet, quiet, math.nan]]
    assert [dead.advance(torch.tensor(step)).tolist() for step in steps] == [[0, 0], [0, 0], [1, 1], [1, 0]]
    assert dead.advance(torch.tensor([1.0, quiet, quiet])).tolist() == [1, 0]


def test_dead_neurons_take_100_steps_by_default():
    dead = DeadNeurons(FlatLayout([(1, 4)]))
    assert [dead.advance(torch.zeros(1)).item() for _ in range(100)] == [0.0] * 99 + [1.0]


def test_zero_update_regions_report_the_last_complete_window():
    layout = FlatLayout([(2, 100), (1, 100)])
    regions = ZeroUpdateRegions(layout, steps=2)
    assert not regions.advance(torch.tensor([[100.0, 100.0], [100.0, 98.0], [0.0, 0.0]]))
    assert regions.advance(torch.tensor([[100.0, 98.0], [100.0, 99.0], [0.0, 0.0]]))
    fractions = regions.row_fractions().tolist()
    assert fractions[:2] == [0.99, 0.985]
    assert math.isnan(fractions[2])  # a row without gradients has no fraction
    assert regions.layer_fractions()[0].item() == 0.9875
    assert regions.row_counts().tolist() == [1, 0]
    regions.advance(torch.zeros(3, 2))
    assert regions.row_counts().tolist() == [1, 0]


@pytest.mark.parametrize("make", ["persistent", "dead", "regions"])
def test_state_survives_saving_and_loading(make, tmp_path):
    layout, tracker, _ = run_persistence(30)
    if make == "dead":
        tracker = DeadNeurons(layout, steps=3)
        tracker.advance(torch.tensor([0.0, 1.0, 0.0, 1.0, 0.0]))
    elif make == "regions":
        tracker = ZeroUpdateRegions(layout, steps=2)
        for value in (1.0, 2.0, 3.0):
            tracker.advance(torch.full((5, 2), value))
    torch.save(tracker.state_dict(), tmp_path / "state.pt")
    fresh = (
        type(tracker)(layout, torch.zeros(layout.total)) if make == "persistent" else type(tracker)(layout)
    )
    fresh.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert str(fresh.state_dict()) == str(tracker.state_dict())
    if make == "persistent":
        assert torch.equal(fresh.age, tracker.age)
        assert tracker.age.max() > 0
