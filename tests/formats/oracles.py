"""Outside oracles for grids and rounding, and the inputs that prove a rounding completely."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import gfloat
import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from altgrad_cli.formats import FP8Format

Float32s = NDArray[np.float32]

# The formats ml_dtypes has as a type, under our names.
ML_DTYPES: dict[str, Any] = {
    "E5M2": ml_dtypes.float8_e5m2,
    "E4M3": ml_dtypes.float8_e4m3fn,
    "E4M3:ieee": ml_dtypes.float8_e4m3,
    "E3M4:ieee": ml_dtypes.float8_e3m4,
    "E4M3:fnuz": ml_dtypes.float8_e4m3fnuz,
    "E5M2:fnuz": ml_dtypes.float8_e5m2fnuz,
    "E4M3B11FNUZ": ml_dtypes.float8_e4m3b11fnuz,
    "E2M3": ml_dtypes.float6_e2m3fn,
    "E3M2": ml_dtypes.float6_e3m2fn,
    "E2M1": ml_dtypes.float4_e2m1fn,
    "BF16": ml_dtypes.bfloat16,
    "FP16": np.float16,
}


def gfloat_info(format: FP8Format) -> gfloat.FormatInfo:
    """The same format as gfloat describes it, from the five dialects' definitions."""
    high_nans = {"ieee": (1 << format.mantissa_bits) - 1, "fn": 1}.get(format.dialect, 0)
    return gfloat.FormatInfo(
        format.name,
        k=format.width,
        precision=format.mantissa_bits + 1,
        bias=1 if format.exponent_bits == 0 else format.bias,
        has_nz=format.dialect in ("finite", "ieee", "fn"),
        domain=gfloat.Domain.Extended if format.dialect in ("ieee", "p3109") else gfloat.Domain.Finite,
        num_high_nans=high_nans,
        has_subnormals=True,
        is_signed=True,
        is_twos_complement=False,
    )


@lru_cache(maxsize=128)
def gfloat_values(format: FP8Format) -> NDArray[np.float64]:
    """The value of every code, decoded by gfloat: one by one, 16-bit formats by its array twin.

    (The array twin of gfloat 0.5.2 decodes the nan of a fixed-point format, E0M2:fn, as a number.)
    """
    if format.width > 12:
        decoded: NDArray[np.float64] = gfloat.decode_ndarray(
            gfloat_info(format), np.arange(format.code_count)
        )
        return decoded
    info = gfloat_info(format)
    return np.array([gfloat.decode_float(info, code).fval for code in range(format.code_count)])


def probe_inputs(format: FP8Format) -> Float32s:
    """Every value and midpoint with both float32 neighbours, both signs, and what lies at the ends.

    Rounding is piecewise constant between midpoints, so these inputs decide it everywhere. The grid is
    gfloat's. No nan: its rule is tested on its own.
    """
    grid = gfloat_values(format)
    positive = np.unique(grid[np.isfinite(grid) & (grid >= 0)])
    step = positive[-1] - positive[-2]
    positive = np.append(positive, [positive[-1] + step / 2, positive[-1] + step])
    points = np.concatenate([positive, (positive[:-1] + positive[1:]) / 2])
    points = points[points <= np.finfo(np.float32).max].astype(np.float32)
    extremes = np.array([0.0, 2.0**-149, 2.0**-126, 61439.0, 61440.0, 61441.0, 1e38, np.inf], np.float32)
    points = np.unique(np.concatenate([points, extremes, np.array([np.finfo(np.float32).max])]))
    with np.errstate(over="ignore"):  # the neighbour of float32's maximum is inf
        around = [points, np.nextafter(points, np.float32(np.inf)), np.nextafter(points, np.float32(0.0))]
    magnitudes = np.unique(np.concatenate(around).astype(np.float32))
    return np.concatenate([magnitudes, -magnitudes])


def gfloat_rounded(format: FP8Format, inputs: Float32s, *, saturate: bool = True) -> NDArray[np.float64]:
    """``inputs`` rounded by gfloat, nearest with ties to the even code."""
    rounded: NDArray[np.float64] = gfloat.round_ndarray(
        gfloat_info(format), inputs.astype(np.float64), gfloat.RoundMode.TiesToEven, sat=saturate
    )
    return rounded


def assert_same_numbers(actual: Any, expected: Any, inputs: Any = None) -> None:
    """Equal value by value: nan equals nan, and -0 differs from +0. Says where the first difference is."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape
    both_nan = np.isnan(actual) & np.isnan(expected)
    same = both_nan | ((actual == expected) & (np.signbit(actual) == np.signbit(expected)))
    if not same.all():
        first = int(np.flatnonzero(~same)[0])
        at = f" for {inputs[first]!r}" if inputs is not None else ""
        raise AssertionError(
            f"{(~same).sum()} differ; first at {first}{at}: {actual[first]!r} != {expected[first]!r}"
        )
