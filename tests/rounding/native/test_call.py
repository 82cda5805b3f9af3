"""The native kernel gives the bits, the counts and the sums of torch's operations, and is not needed."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
import torch
from torch import Tensor

from altgrad_cli.formats import parse_format
from altgrad_cli.rounding.grid import operand_grid
from altgrad_cli.rounding.native import call
from altgrad_cli.rounding.quantize import STATS, round_to_grid
from tests.rounding.inputs import wild
from tests.rounding.paths import need_kernel

NAMES = ("E0M7", "E1M6", "E3M4", "E4M3", "E4M3:fnuz", "E5M2", "E7M0", "E7M0:bias=64", "BF16", "FP16", "E0M15")
FAR = ("E5M2:bias=140", "E8M7:bias=130", "E8M0:bias=128", "E7M0:bias=0")


@pytest.fixture(autouse=True)
def kernel() -> None:
    need_kernel()


def both_ways(x: Tensor, round_it: object, **options: object) -> Iterator[tuple[Tensor, Tensor]]:
    """What the kernel gives and what torch's operations give: values, then the row."""
    given = []
    for native in (True, False):
        row = torch.full((len(STATS),), 9.0, dtype=torch.float64)
        with mock.patch.object(call, "native_kernel", call.native_kernel if native else lambda: None):
            if "generator" in options:
                options["generator"] = torch.Generator().manual_seed(4)
            given.append((round_it(x, stats=row, **options), row))  # type: ignore[operator]
    return zip(*given, strict=True)


def assert_same(x: Tensor, round_it: object, **options: object) -> None:
    for native, eager in both_ways(x, round_it, **options):
        kind = torch.int32 if native.dtype == torch.float32 else torch.int64
        assert torch.equal(native.view(kind), eager.view(kind))


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
@pytest.mark.parametrize("name", [*NAMES, *FAR])
def test_values_and_rows_are_those_of_torchs_operations(name: str, rounding: str) -> None:
    """Nan payloads, signs of zero, sums of float32 in torch's order: everything."""
    format, dice = parse_format(name), torch.Generator().manual_seed(1)
    tame = torch.randn(5000, generator=dice) * format.max_representable_value**0.5
    tame[::9], tame[4::90] = 0.0, -0.0
    strange = wild(3, (20, 90)).view(-1)
    strange.view(torch.int32)[::40] = 0x7F800001
    strange.view(torch.int32)[1::40] = -0x3FFFFF
    for x, scale in itertools.product((tame, tame[:5], tame[:515], strange), (1.0, 0.25, 0.3, 2.0**-40)):
        for overflow, counters in itertools.product(("saturate", "ieee"), ("all", "extremes")):
            if overflow == "ieee" and not format.has_specials:
                continue
            options = {"overflow": overflow, "counters": counters, "rounding": rounding, "generator": None}
            assert_same(x, lambda x, s=scale, **o: round_to_grid(x, format, s, **o), **options)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_sums_are_torchs_for_every_number_of_threads(threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for size in (32_767, 32_769, 70_001, (1 << 19) + 40_000):
            x = torch.randn(size, generator=torch.Generator().manual_seed(size))
            assert_same(x, lambda x, **o: round_to_grid(x, "E4M3", 0.001, **o))
            assert_same(x.bfloat16(), lambda x, **o: round_to_grid(x, "E0M7", 0.3, **o))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("name", ["MXFP8_E4M3", "MXINT8", "NVFP4", "E3M4@row", "E5M2@8x8", "E2M1@7"])
def test_blocks_are_those_of_torchs_operations(name: str) -> None:
    grid = operand_grid(parse_format(name), "amax", power_of_two=False)
    tame = torch.randn(48, 64, generator=torch.Generator().manual_seed(5))
    tame[3, :40], tame[4, 5] = 0.0, -0.0
    for x in (tame, torch.randn(9, 5, 33), wild(3, (21, 45)), torch.randn(1100, 512)):
        scales = grid.scales(x)
        for counters in ("all", "extremes"):
            assert_same(x, lambda x, s=scales, **o: grid.round(x, s, **o), counters=counters)
        assert_same(x, lambda x, s=scales, **o: grid.round(x, s, **o), rounding="stochastic", generator=None)


@pytest.mark.parametrize("name", ["E2M1", "E4M3", "E7M0"])
def test_scales_at_both_ends_of_float32_divide_exactly(name: str) -> None:
    """2^127 has no normal inverse and 2^-127 is subnormal itself: neither may be turned into a product."""
    exponents = (-149, -127, -126, -1, 0, 126, 127)
    scales = torch.tensor([2.0**exponent for exponent in exponents], dtype=torch.float64).view(-1, 1)
    x = torch.randn(len(exponents), 5000, generator=torch.Generator().manual_seed(6)) * scales.float()
    assert_same(x, lambda x, **o: round_to_grid(x, name, scales, **o))
    rounded = round_to_grid(x, name, scales)
    expected = round_to_grid((x.double() / scales).float(), name)
    assert torch.equal(rounded, expected * scales.float())


def test_without_a_compiler_one_line_and_the_same_bits(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    x = wild(1, (30, 40))
    expected = round_to_grid(x, "E5M2", 0.3)
    monkeypatch.setenv("ALTGRAD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    call.native_kernel.cache_clear()
    try:
        for _ in range(2):
            found = round_to_grid(x, "E5M2", 0.3)
        assert torch.equal(found.view(torch.int32), expected.view(torch.int32))
        assert [record.getMessage() for record in caplog.records] == [
            "no C compiler was found: rounding runs on torch's operations, slower, with the same bits"
        ]
    finally:
        call.native_kernel.cache_clear()
