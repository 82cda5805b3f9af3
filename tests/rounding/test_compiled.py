"""The compiled form: the eager form's bits and counts, and its absence without a compiler."""

from __future__ import annotations

import itertools
import logging
import math
import shutil

import pytest
import torch

from altgrad_cli.formats import FP8Format, parse_format
from altgrad_cli.rounding import compiled
from altgrad_cli.rounding.constants import Overflow, Rounding
from altgrad_cli.rounding.quantize import STATS, round_to_grid
from altgrad_cli.rounding.traced import LINE
from tests.formats.oracles import gfloat_rounded, probe_inputs

needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("g++", "clang++", "c++"))), reason="no C++ compiler on this machine"
)
# torch's own compiler warns about its internals; the numbers are what is tested here.
pytestmark = pytest.mark.filterwarnings("default")

ALL = [
    "E5M2",
    "E0M7",
    "E1M6",
    "E2M5",
    "E3M4",
    "E4M3",
    "E4M3:fnuz",
    "E6M1",
    "E7M0:bias=64",
    "BF16",
    "FP16",
    "E0M15",
]


def _inputs(format: FP8Format, count: int, *, finite: bool = False) -> torch.Tensor:
    """The probes first, then normal values; nan and inf at the end, unless ``finite`` in the middle too."""
    probes = torch.from_numpy(probe_inputs(format))[: count // 2]
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(count, generator=generator) * min(format.max_representable_value, 1e30) / 2
    x[: probes.numel()] = probes
    specials = torch.tensor([math.nan, math.inf, -math.inf])
    x[-3:] = specials
    if finite:
        x[:-3] = torch.where(torch.isfinite(x[:-3]), x[:-3], 1.0)
    else:
        x[count // 2 : count // 2 + 3] = specials
    return x


def _check(
    format: FP8Format,
    scale: float,
    *,
    rounding: Rounding = "nearest",
    overflow: Overflow = "saturate",
    counted: bool = False,
    finite: bool = False,
) -> None:
    count = compiled.SMALLEST + LINE // 2 + 3  # a tail that does not fill a line
    x = _inputs(format, count, finite=finite) * torch.tensor(scale)
    results, rows = [], []
    for use in (False, True):
        row = torch.zeros(len(STATS), dtype=torch.float64)
        results.append(
            round_to_grid(
                x,
                format,
                scale,
                rounding=rounding,
                overflow=overflow,
                generator=torch.Generator().manual_seed(5),
                stats=row if counted else None,
                compiled=use,
            )
        )
        rows.append(row)
    eager, fused = results
    same = eager.view(torch.int32) == fused.view(torch.int32)
    assert (same | (eager.isnan() & fused.isnan())).all()
    assert torch.equal(rows[0][:-2], rows[1][:-2])
    assert torch.allclose(rows[0][-2:], rows[1][-2:], rtol=1e-6, atol=1e-6 * float(rows[0][-1]))


@needs_compiler
def test_the_bits_and_the_counts_are_those_of_the_eager_form() -> None:
    _check(parse_format("E5M2"), 0.3, counted=True)
    _check(parse_format("E5M2"), 0.3, counted=True, finite=True)
    _check(parse_format("E5M2"), 0.3, rounding="stochastic")
    assert compiled.compile_failure(torch.device("cpu")) is None


@needs_compiler
@pytest.mark.campaign
@pytest.mark.parametrize("scale", [0.25, 0.3])
@pytest.mark.parametrize("name", ALL)
def test_the_bits_and_the_counts_of_every_kind_of_format(name: str, scale: float) -> None:
    format = parse_format(name)
    overflows: tuple[Overflow, ...] = ("saturate", "ieee") if format.has_specials else ("saturate",)
    roundings: tuple[Rounding, ...] = ("nearest", "stochastic")
    for overflow, rounding in itertools.product(overflows, roundings):
        _check(format, scale, rounding=rounding, overflow=overflow)
        for finite in (False, True):
            _check(format, scale, rounding=rounding, overflow=overflow, counted=True, finite=finite)


@needs_compiler
def test_a_line_of_the_largest_floats_is_counted_as_the_eager_form_counts_it() -> None:
    x = torch.full((compiled.SMALLEST,), 3e38)
    rows = torch.zeros(2, len(STATS), dtype=torch.float64)
    for row, use in zip(rows, (False, True), strict=True):
        round_to_grid(x, parse_format("E5M2"), 0.3, stats=row, compiled=use)
    assert torch.equal(rows[0][:-2], rows[1][:-2])
    assert torch.allclose(rows[0][-2:], rows[1][-2:], rtol=1e-12)


@needs_compiler
@pytest.mark.campaign
def test_the_compiled_form_rounds_as_gfloat_does_and_in_place() -> None:
    format = parse_format("E5M2")
    x = _inputs(format, compiled.SMALLEST, finite=True)[:-3].repeat(2)
    expected = torch.from_numpy(gfloat_rounded(format, x.numpy())).float()
    assert torch.equal(
        round_to_grid(x, format, 1.0, compiled=True).view(torch.int32), expected.view(torch.int32)
    )
    assert round_to_grid(x, format, 1.0, out=x, compiled=True) is x
    assert torch.equal(x.view(torch.int32), expected.view(torch.int32))


def test_without_a_compiler_one_line_and_the_same_numbers(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(compiled._Failed, "reason", None)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    compiled._missing_compiler.cache_clear()
    x = torch.randn(compiled.SMALLEST, generator=torch.Generator().manual_seed(6))
    with caplog.at_level(logging.WARNING):
        rounded = [round_to_grid(x, parse_format("E5M2"), 0.3, compiled=use) for use in (True, True, False)]
    assert torch.equal(rounded[0], rounded[2])
    assert torch.equal(rounded[1], rounded[2])
    assert len(caplog.records) == 1
    assert "compiler" in caplog.text
    compiled._missing_compiler.cache_clear()


def test_a_compiler_that_fails_is_given_up_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(variant: object) -> None:
        raise RuntimeError("collect2: error: ld returned 1 exit status\nand a page of flags")

    monkeypatch.setattr(compiled._Failed, "reason", None)
    monkeypatch.setattr(compiled, "_missing_compiler", lambda: None)
    monkeypatch.setattr(compiled, "_kernel", broken)
    x = torch.ones(compiled.SMALLEST)
    for _ in range(2):
        assert torch.equal(round_to_grid(x, parse_format("E5M2"), compiled=True), x)
    assert len(caplog.records) == 1
    assert "flags" not in caplog.text
