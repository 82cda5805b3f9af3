"""The every-step update counts against a plain Python loop, and each metric on tensors with known answers."""

from __future__ import annotations

import math

import pytest
import torch

from altgrad_cli.formats import FORMAT_REGISTRY
from altgrad_cli.metrics.layer_sums import FlatLayout
from altgrad_cli.metrics.persistence import PersistentStall
from altgrad_cli.metrics.spec import evaluate
from altgrad_cli.metrics.update import (
    MASTER_UPDATE_METRICS,
    STORED_UPDATE_METRICS,
    UPDATE_COLUMNS,
    measure_updates,
    rescale_flip_rate,
)
from altgrad_cli.rounding.quantize import round_to_grid
from altgrad_cli.training.measuring.reduce import pool

SHAPES = [(6, 8), (4, 12), (1, 4), (3, 20)]


def loop_counts(w, w_after, dw, g, *, stored):
    """The definitions of the design, one weight at a time."""
    row = dict.fromkeys(UPDATE_COLUMNS, 0.0)
    values = (t.flatten().tolist() for t in (w, w_after, dw, g))
    for before, after, change, grad in zip(*values, strict=True):
        row["count"] += 1
        row["updated"] += change != 0
        row["unchanged"] += before == after
        row["stalled"] += change != 0 and before == after
        row["gradient_nonzero"] += grad != 0
        left_alone = before == after if stored else change == 0
        row["gradient_unchanged"] += grad != 0 and left_alone
        row["transfer_dot"] += (after - before) * change
        row["update_square"] += change * change
    return row


def a_step(shape, seed, *, zeros=True):
    """Weights on E5M2's grid, an update that moves some of them; dw and g with exact zeros or without."""
    generator = torch.Generator().manual_seed(seed)
    fmt = FORMAT_REGISTRY["E5M2"]
    w = round_to_grid(torch.randn(shape, generator=generator) * 0.05, fmt, 0.25)
    dw = torch.randn(shape, generator=generator) * 0.004
    g = torch.randn(shape, generator=generator)
    if zeros:
        dw[torch.rand(shape, generator=generator) < 0.2] = 0
        g[torch.rand(shape, generator=generator) < 0.3] = 0
    return w, round_to_grid(w + dw, fmt, 0.25), dw, g


@pytest.fixture(params=[True, False], ids=["with zeros", "all updated"])
def step(request):
    layers = [a_step(shape, seed, zeros=request.param) for seed, shape in enumerate(SHAPES)]
    layout = FlatLayout(SHAPES)
    return layout, layers, [layout.join(tensors) for tensors in zip(*layers, strict=True)]


@pytest.mark.parametrize("group", [1, 60, 10**6], ids=["layer by layer", "two groups", "one group"])
@pytest.mark.parametrize("stored", [True, False])
def test_counts_agree_with_a_loop(step, stored, group, monkeypatch):
    monkeypatch.setattr("altgrad_cli.metrics.layer_sums._CPU_GROUP", group)
    _, layers, flat = step
    table, rows = measure_updates(FlatLayout(SHAPES), *flat, stored=stored)
    assert table.dtype == torch.float64
    for measured, layer in zip(table.tolist(), layers, strict=True):
        expected = loop_counts(*layer, stored=stored)
        assert dict(zip(UPDATE_COLUMNS, measured, strict=True)) == pytest.approx(expected, rel=1e-5)
    expected_rows = [
        [loop_counts(*parts, stored=stored)[name] for name in ("gradient_nonzero", "gradient_unchanged")]
        for layer in layers
        for parts in zip(*layer, strict=True)
    ]
    assert rows.tolist() == expected_rows


def test_layers_of_both_kinds_in_one_group(step):
    layout, layers, flat = step
    kinds = [True, False, True, False]
    table, _ = measure_updates(layout, *flat, stored=kinds)
    column = UPDATE_COLUMNS.index("gradient_unchanged")
    expected = [
        loop_counts(*layer, stored=kind)["gradient_unchanged"]
        for layer, kind in zip(layers, kinds, strict=True)
    ]
    assert table[:, column].tolist() == expected


def test_measuring_leaves_its_inputs_alone(step):
    layout, _, flat = step
    copies = [tensor.clone() for tensor in flat]
    measure_updates(layout, *flat, persistence=PersistentStall(layout, flat[0]))
    assert all(torch.equal(tensor, copy) for tensor, copy in zip(flat, copies, strict=True))


def metrics_of(w, w_after, dw, g, *, stored=True):
    flat = [torch.tensor(values) for values in (w, w_after, dw, g)]
    table, _ = measure_updates(FlatLayout([(1, len(w))]), *flat, stored=stored)
    specs = STORED_UPDATE_METRICS if stored else MASTER_UPDATE_METRICS
    return evaluate(specs, dict(zip(UPDATE_COLUMNS, table[0].tolist(), strict=True)))


def test_known_step():
    # four weights: moved, stalled, not updated, stalled without a gradient (weight decay only)
    values = metrics_of(
        [1.0, 2.0, 3.0, 4.0], [1.5, 2.0, 3.0, 4.0], [0.5, 0.5, 0.0, -0.5], [1.0, 1.0, 1.0, 0.0]
    )
    assert values == {
        "bit_stall_rate": 2 / 3,
        "flip_rate": 1 / 4,
        "update_transfer": pytest.approx(1 / 3),
        "zero_update_fraction": 2 / 3,
        "update_norm": pytest.approx(math.sqrt(0.75)),
    }


def test_frozen_is_tau_0_and_faithful_is_tau_1():
    frozen = metrics_of([1.0, 2.0], [1.0, 2.0], [0.1, -0.1], [1.0, 1.0])
    faithful = metrics_of([1.0, 2.0], [1.5, 1.5], [0.5, -0.5], [1.0, 1.0])
    assert (frozen["update_transfer"], frozen["bit_stall_rate"], frozen["flip_rate"]) == (0.0, 1.0, 0.0)
    assert (faithful["update_transfer"], faithful["bit_stall_rate"], faithful["flip_rate"]) == (1.0, 0.0, 1.0)


def test_nothing_to_update_is_undefined_and_not_zero():
    values = metrics_of([1.0, 2.0], [1.0, 2.0], [0.0, 0.0], [0.0, 0.0])
    assert values["bit_stall_rate"] is None
    assert values["update_transfer"] is None
    assert values["zero_update_fraction"] is None
    assert values["flip_rate"] == 0.0


def test_masters_stall_only_apparently():
    # the rounded value stays, the float32 master moves: no update was lost
    values = metrics_of([1.0, 1.0], [1.0, 1.0], [0.01, 0.01], [1.0, 1.0], stored=False)
    assert values["apparent_stall_rate"] == 1.0
    assert values["zero_update_fraction"] == 0.0
    assert "bit_stall_rate" not in values
    assert "update_transfer" not in values


def test_minus_zero_is_the_same_code_as_zero():
    assert metrics_of([0.0], [-0.0], [-1e-9], [1.0])["bit_stall_rate"] == 1.0


def test_nan_is_counted_as_a_change_and_shows_in_the_sums():
    values = metrics_of([1.0, 1.0], [math.nan, 1.0], [math.nan, 0.1], [1.0, 1.0])
    assert values["flip_rate"] == 0.5
    assert values["bit_stall_rate"] == 0.5
    assert math.isnan(values["update_transfer"])
    assert math.isnan(values["update_norm"])


def test_stochastic_rounding_transfers_the_update_in_expectation():
    fmt = FORMAT_REGISTRY["E5M2"]
    generator = torch.Generator().manual_seed(7)
    w = round_to_grid(torch.randn(64, 512, generator=generator) * 0.02, fmt, 2.0**-16)
    dw = torch.randn(64, 512, generator=generator) * 2e-4
    layout = FlatLayout([(64, 512)])

    def tau(**rounding):
        after = round_to_grid(w + dw, fmt, 2.0**-16, **rounding)
        table, _ = measure_updates(layout, *(t.flatten() for t in (w, after, dw, dw)))
        row = dict(zip(UPDATE_COLUMNS, table[0].tolist(), strict=True))
        return evaluate(STORED_UPDATE_METRICS, row)["update_transfer"]

    assert tau(rounding="stochastic", generator=generator) == pytest.approx(1.0, abs=0.05)
    assert tau() < 0.3


def test_pooling_counts_elements_and_not_layers(step):
    layout, layers, flat = step
    table, _ = measure_updates(layout, *flat)
    pooled = pool(UPDATE_COLUMNS, table.tolist())
    together = loop_counts(
        *(torch.cat([t.flatten() for t in ts]) for ts in zip(*layers, strict=True)), stored=True
    )
    assert pooled == pytest.approx(together, rel=1e-5)


def test_rescale_flips():
    before = torch.tensor([1.0, 2.0, 3.0, -0.0])
    after = torch.tensor([1.0, 2.5, 3.0, 0.0])
    assert rescale_flip_rate(before, after).item() == 0.25
