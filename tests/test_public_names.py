"""The study's public names are found in altgrad_cli.quantization, and ``quantize`` there is the function."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch

import altgrad_cli.quantization as q
from altgrad_cli.errors import FormatError, UsageError
from altgrad_cli.formats import parse_format
from altgrad_cli.formats.reference import round_exact
from altgrad_cli.metrics.stall import first_step_stall_rate, predicted_stall_rate
from altgrad_cli.rounding.codes import code_index
from altgrad_cli.rounding.mode import round_to_grid

STUDY_NAMES = {
    *("quantize", "dequantize", "compute_scale", "AmaxHistory", "FP8Format", "FORMAT_REGISTRY"),
    *("BitStallDetector", "detect_bit_stall", "PartitionRelativeClipper", "EmergencyMantissaShift"),
    *("compute_stiffness_field", "grid_alignment_error", "grid_alignment_statistics"),
    *("compute_ulp_distance", "ulp_statistics", "gradient_stiffness_correlation"),
}


def python(code):
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_every_name_of_the_study_is_there():
    import altgrad_cli.quantization as quantization

    assert STUDY_NAMES <= set(quantization.__all__) <= set(dir(quantization))
    for name in quantization.__all__:
        assert getattr(quantization, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = quantization.no_such_name


@pytest.mark.parametrize(
    "first",
    [
        "",
        "import altgrad_cli.rounding.quantize; ",
        "from altgrad_cli.rounding.quantize import STATS; ",
    ],
    ids=["package first", "submodule first", "from submodule first"],
)
def test_quantize_is_the_function_whatever_was_imported_first(first):
    code = f"{first}from altgrad_cli.quantization import quantize; print(type(quantize).__name__)"
    assert python(code) == "function"


def test_the_package_alone_costs_no_torch():
    assert python("import sys, altgrad_cli.quantization; print('torch' in sys.modules)") == "False"
    assert (
        python("import sys; from altgrad_cli.quantization import quantize; print('torch' in sys.modules)")
        == "True"
    )


X, E4M3 = torch.linspace(-1, 1, 12).view(3, 4), parse_format("E4M3")

WRONG_OPTIONS = {
    "rounding": lambda: q.quantize(X, E4M3, rounding="sr"),
    "overflow": lambda: q.quantize(X, E4M3, overflow="SATURATE"),
    "overflow of encode": lambda: q.encode(X, E4M3, overflow="clamp"),
    "overflow of the reference": lambda: round_exact(1.0, E4M3, overflow="Ieee"),
    "counters": lambda: round_to_grid(X, E4M3, counters="none"),
    "rounding of the predicted stall": lambda: first_step_stall_rate(X, E4M3, 1.0, 1e-3, rounding="sr"),
}


@pytest.mark.parametrize("call", WRONG_OPTIONS.values(), ids=WRONG_OPTIONS)
def test_an_unknown_word_is_refused_with_those_that_are_allowed(call):
    with pytest.raises(UsageError, match="is not known") as refused:
        call()
    assert {"nearest", "saturate", "extremes"} & set(refused.value.allowed.split(", "))


TAKES_A_FORMAT = {
    "quantize": lambda f: q.quantize(X, f),
    "encode": lambda f: q.encode(X, f),
    "dequantize": lambda f: q.dequantize(torch.tensor([1, 2]), f),
    "compute_scale": lambda f: torch.tensor(q.compute_scale(3.0, f)),
    "detect_bit_stall": lambda f: torch.tensor(q.detect_bit_stall(X, X, 0.1, f)),
    "grid_alignment_error": lambda f: q.grid_alignment_error(X, f),
    "grid_alignment_statistics": lambda f: torch.tensor(list(q.grid_alignment_statistics(X, f).values())),
    "clipper": lambda f: torch.tensor(q.PartitionRelativeClipper(f).clip_threshold),
    "code_index": lambda f: code_index(X, f),
    "predicted_stall_rate": lambda f: predicted_stall_rate(X, f, 1.0, 1e-3),
}


@pytest.mark.parametrize("call", TAKES_A_FORMAT.values(), ids=TAKES_A_FORMAT)
def test_a_format_may_be_given_by_name(call):
    assert torch.equal(call("e4m3"), call(E4M3))
    with pytest.raises(FormatError, match="E4M3X"):
        call("E4M3X")
    with pytest.raises(FormatError, match="int"):
        call(7)


def test_the_shift_knows_a_format_in_small_letters():
    assert q.EmergencyMantissaShift().check_and_shift("e7m0", False, 0.9) == "E5M2"


TAKES_A_SCALE = {
    "quantize": lambda s: q.quantize(X, E4M3, s),
    "encode": lambda s: q.encode(X, E4M3, s),
    "dequantize": lambda s: q.dequantize(torch.ones(3, 4, dtype=torch.int64), E4M3, s),
    "detect_bit_stall": lambda s: torch.tensor(q.detect_bit_stall(X, X, 0.1, E4M3, s)),
    "grid_alignment_statistics": lambda s: torch.tensor(
        list(q.grid_alignment_statistics(X, E4M3, s).values())
    ),
}


@pytest.mark.parametrize("call", TAKES_A_SCALE.values(), ids=TAKES_A_SCALE)
def test_a_scale_of_another_shape_is_refused_with_both_shapes(call):
    assert torch.equal(call(0.5), call(torch.tensor([0.5])))
    for scale in (torch.ones(4, 1), torch.ones(4), torch.ones(0)):
        with pytest.raises(UsageError, match=r"shape \((4, 1|4,|0,)\) for a tensor of shape \(3, 4\)"):
            call(scale)
    assert torch.equal(call(torch.full((3, 1), 0.5)), call(0.5))
    for broken in (-1.0, 0.0, math.nan, math.inf, 1e-50, 1e39):  # the last two are none of float32
        with pytest.raises(UsageError, match="cannot divide"):
            call(torch.tensor([[1.0], [broken], [1.0]], dtype=torch.float64))
    with pytest.raises(UsageError, match="'half'"):
        call("half")


def test_the_library_shows_its_own_face_and_costs_no_torch():
    code = "import sys, altgrad_cli as a; {}; print('torch' in sys.modules, 'yaml' in sys.modules)"
    assert python(code.format("dir(a)")) == "False False"
    assert python(code.format("a.parse_format('e3m4').max_representable_value")) == "False False"
    assert python(code.format("a.quantize")).startswith("True")
    import altgrad_cli

    assert {"load_config", "parse_format", "quantize", "train"} <= set(dir(altgrad_cli))
    assert altgrad_cli.quantize(X, "E4M3").shape == X.shape
    assert altgrad_cli.load_config("smoke").max_steps > 0
    assert next(altgrad_cli.train(altgrad_cli.load_config("smoke", ["max_steps=1"]))).kind == "run_started"
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = altgrad_cli.no_such_name
