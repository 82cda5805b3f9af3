"""Rounding tensors onto a format, and the study's public names in one place.

A name is imported from the room that defines it when it is first asked for, so that reading a plan
(``quantization.precision``) costs no torch, and so that names of higher rooms can be found here at all.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from altgrad_cli.diagnostics.grid import (
        compute_stiffness_field,
        compute_ulp_distance,
        gradient_stiffness_correlation,
        grid_alignment_error,
        grid_alignment_statistics,
        ulp_statistics,
    )
    from altgrad_cli.diagnostics.stall import BitStallDetector, detect_bit_stall
    from altgrad_cli.formats import FORMAT_REGISTRY, FP8Format, parse_format
    from altgrad_cli.quantization.quantize import dequantize, encode, quantize
    from altgrad_cli.quantization.scaling import AmaxHistory, compute_scale
    from altgrad_cli.stability.clipping import PartitionRelativeClipper
    from altgrad_cli.stability.fallback import FORMAT_FALLBACK, EmergencyMantissaShift

_HOME = {
    "FORMAT_REGISTRY": "formats",
    "FP8Format": "formats",
    "parse_format": "formats",
    "dequantize": "quantization.quantize",
    "encode": "quantization.quantize",
    "quantize": "quantization.quantize",
    "AmaxHistory": "quantization.scaling",
    "compute_scale": "quantization.scaling",
    "BitStallDetector": "diagnostics.stall",
    "detect_bit_stall": "diagnostics.stall",
    "compute_stiffness_field": "diagnostics.grid",
    "compute_ulp_distance": "diagnostics.grid",
    "gradient_stiffness_correlation": "diagnostics.grid",
    "grid_alignment_error": "diagnostics.grid",
    "grid_alignment_statistics": "diagnostics.grid",
    "ulp_statistics": "diagnostics.grid",
    "PartitionRelativeClipper": "stability.clipping",
    "EmergencyMantissaShift": "stability.fallback",
    "FORMAT_FALLBACK": "stability.fallback",
}
"""Public name -> the module of altgrad_cli that defines it."""

__all__ = [
    "FORMAT_FALLBACK",
    "FORMAT_REGISTRY",
    "AmaxHistory",
    "BitStallDetector",
    "EmergencyMantissaShift",
    "FP8Format",
    "PartitionRelativeClipper",
    "compute_scale",
    "compute_stiffness_field",
    "compute_ulp_distance",
    "dequantize",
    "detect_bit_stall",
    "encode",
    "gradient_stiffness_correlation",
    "grid_alignment_error",
    "grid_alignment_statistics",
    "parse_format",
    "quantize",
    "ulp_statistics",
]


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"altgrad_cli.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _FunctionBeforeSubmodule(ModuleType):
    """This package, whose ``quantize`` is the function even after the submodule of that name was imported."""

    def __setattr__(self, name: str, value: Any) -> None:
        # Python's import of `quantization.quantize` binds the submodule here, over the public function.
        if name == "quantize" and isinstance(value, ModuleType):
            value = value.quantize
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _FunctionBeforeSubmodule
