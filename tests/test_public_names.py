"""The study's public names are found in altgrad_cli.quantization, and ``quantize`` there is the function."""

from __future__ import annotations

import subprocess
import sys

import pytest

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
