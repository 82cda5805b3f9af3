"""The counters against a plain loop over the exact reference, on every way the row is filled."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from altgrad_cli.formats import FP8Format, named_formats, parse_format
from altgrad_cli.formats.reference import round_exact
from altgrad_cli.rounding import eager
from altgrad_cli.rounding.constants import plan_rounding
from altgrad_cli.rounding.quantize import STATS, round_to_grid
from altgrad_cli.rounding.statistics import count_everywhere

SUMS = ("error_sum", "abs_sum")


def loop_row(x: torch.Tensor, format: FP8Format, scale: float) -> dict[str, float]:
    """The row, one value at a time."""
    row = dict.fromkeys(STATS, 0.0)
    s = np.float32(scale)
    smallest = format.min_normal
    for value in x.tolist():
        with np.errstate(over="ignore", under="ignore"):
            y = float(np.float32(value) / s)
            q = float(np.float32(round_exact(y, format)) * s)
        row["count"] += 1
        row["nonzero"] += value != 0
        if math.isfinite(value):
            row["amax"] = max(row["amax"], abs(value))
            row["abs_sum"] += abs(value)
            row["error_sum"] += q - value
        else:
            row["nonfinite"] += 1
        row["clipped"] += abs(y) > format.max_representable_value
        row["overflow"] += abs(y) >= format.overflow_threshold
        row["underflow"] += value != 0 and q == 0
        row["subnormal"] += smallest is not None and 0 < abs(q) < smallest * float(s)
    return row


def tensor_row(
    x: torch.Tensor, format: FP8Format, scale: float, *, in_place: bool = False
) -> dict[str, float]:
    row = torch.full((len(STATS),), math.nan, dtype=torch.float64)
    x = x.clone()
    round_to_grid(x, format, scale, stats=row, out=x if in_place else None)
    return dict(zip(STATS, row.tolist(), strict=True))


def same(actual: dict[str, float], expected: dict[str, float]) -> None:
    for name in STATS:
        if name in SUMS:
            room = 1e-6 * max(expected["abs_sum"], 1e-30)
            assert abs(actual[name] - expected[name]) <= room, name
        else:
            assert actual[name] == expected[name], name


def cases(format: FP8Format) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(8)
    normal = torch.randn(700, generator=generator)
    few = torch.where(normal.abs() < 0.1, 1.0, normal).repeat(9)[: 6 * 1024] * format.max_representable_value
    few[3] = few[4] = few[2000] = 0.0
    few[5000:5040] = normal[:40] * format.smallest_positive
    top = min(format.max_representable_value, 1e30)
    return {
        "ordinary": normal * top / 8,
        "clipped": normal * top * 0.7,
        "at the edges": torch.tensor([1.0, -1.0, 1 + 2.0**-23, 0.5]) * top,
        "vanishing": normal * format.smallest_positive,
        "few are small": (few / 4).clamp(-top, top),
        "zeros": torch.where(normal > 0.5, 0.0, normal * format.smallest_positive * 4),
        "not finite": torch.cat([normal * top / 2, torch.tensor([math.nan, math.inf, -math.inf])]),
        "all zero": torch.zeros(5),
        "only nan": torch.full((4,), math.nan),
    }


@pytest.mark.parametrize("format", named_formats(), ids=lambda format: format.name)
def test_the_row_is_that_of_a_plain_loop(format: FP8Format) -> None:
    for x in cases(format).values():
        for scale in (1.0, 0.25, 0.7):
            expected = loop_row(x, format, scale)
            same(tensor_row(x, format, scale), expected)
            same(tensor_row(x, format, scale, in_place=True), expected)


@pytest.mark.parametrize("name", ["E5M2", "E3M4", "E1M6", "E7M0", "BF16"])
def test_the_form_without_branches_counts_the_same(name: str) -> None:
    """The form for devices that must not be waited for, run here on the CPU."""
    format = parse_format(name)
    for x in cases(format).values():
        for scale in (1.0, 0.25, 0.7):
            plan = plan_rounding(format, scale, "saturate")
            q = round_to_grid(x, format, scale)
            for s in (scale, torch.tensor(scale)):
                row = count_everywhere(x, q, plan, s).tolist()
                same(dict(zip(STATS, row, strict=True)), loop_row(x, format, scale))


def test_counts_add_up_over_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    e4m3 = parse_format("E4M3")
    x = torch.cat(list(cases(e4m3).values()))
    expected = loop_row(x, e4m3, 0.25)
    for size in (64, 1000):
        monkeypatch.setattr(eager, "SLICE", size)
        same(tensor_row(x, e4m3, 0.25), expected)


def test_values_whose_sum_leaves_float32_are_summed_all_the_same() -> None:
    bf16 = parse_format("BF16")
    x = torch.full((100,), 3e38)
    row = tensor_row(x, bf16, 1.0)
    q = float(round_to_grid(x[:1], bf16, 1.0))
    assert row["abs_sum"] == pytest.approx(100 * float(x[0]), rel=1e-12)
    assert row["error_sum"] == pytest.approx(100 * (q - float(x[0])), rel=1e-12)
    assert row["nonfinite"] == 0


def test_an_infinite_result_leaves_the_error_sum_finite() -> None:
    e5m2 = parse_format("E5M2")
    row = torch.zeros(len(STATS), dtype=torch.float64)
    round_to_grid(torch.tensor([61440.0, 1.1]), e5m2, 1.0, overflow="ieee", stats=row)
    values = dict(zip(STATS, row.tolist(), strict=True))
    assert values["overflow"] == 1
    assert values["error_sum"] == pytest.approx(1.0 - 1.1, rel=1e-6)


def test_the_overflow_boundary_is_the_rounding_not_the_maximum() -> None:
    """E5M2: 57344 is the maximum, 61440 the first float32 that rounds beyond it; OCP E4M3: 464 is not yet."""
    for name, inside, outside in (("E5M2", 61439.996, 61440.0), ("E4M3", 464.0, 464.00003)):
        row = tensor_row(torch.tensor([inside, outside]), parse_format(name), 1.0)
        assert (row["clipped"], row["overflow"]) == (2, 1)


def test_counting_does_not_change_the_rounding() -> None:
    for name in ("E5M2", "E3M4", "E0M7", "E7M0"):
        format = parse_format(name)
        for x in cases(format).values():
            row = torch.zeros(len(STATS), dtype=torch.float64)
            counted = round_to_grid(x, format, 0.3, stats=row)
            plain = round_to_grid(x, format, 0.3)
            assert torch.equal(counted.view(torch.int32), plain.view(torch.int32))


@pytest.mark.parametrize("name", ["E5M2", "E3M4", "E1M6", "E7M0", "BF16", "E5M2:ieee"])
@pytest.mark.parametrize("special", [None, math.inf, -math.inf, math.nan, 3e38])
def test_extremes_alone_are_those_of_the_full_row_and_change_no_bit(name: str, special: float | None) -> None:
    overflow = "ieee" if name.endswith(":ieee") else "saturate"
    format = parse_format(name.removesuffix(":ieee"))
    x = torch.randn(3, 700, generator=torch.Generator().manual_seed(3)) * 0.7
    if special is not None:
        x[1, 13] = special
    for scale in (0.25, 0.3, 2.0**-20):  # nothing beyond the maximum, and nearly everything
        row = torch.zeros(len(STATS), dtype=torch.float64)
        rounded = round_to_grid(x, format, scale, overflow=overflow, stats=row, counters="extremes")
        assert torch.equal(
            rounded.view(torch.int32), round_to_grid(x, format, scale, overflow=overflow).view(torch.int32)
        )
        found = dict(zip(STATS, row.tolist(), strict=True))
        finite = x[x.isfinite()]
        assert found.pop("amax") == finite.abs().max().item()
        assert found.pop("nonfinite") == x.numel() - finite.numel()
        assert all(math.isnan(value) for value in found.values()), "the rest was not counted"


def test_extremes_of_float64_are_those_of_the_float32_it_is_narrowed_to() -> None:
    x = torch.tensor([1e300, 1.0, -2.0], dtype=torch.float64)
    row = torch.zeros(len(STATS), dtype=torch.float64)
    q = round_to_grid(x, parse_format("E5M2"), 1.0, stats=row, counters="extremes")
    assert q.tolist() == [57344.0, 1.0, -2.0]
    full = tensor_row(x, parse_format("E5M2"), 1.0)
    assert (row[0].item(), row[STATS.index("nonfinite")].item()) == (full["amax"], full["nonfinite"])
