"""The study's public names for formats, rounding and measures, in one place.

A name is imported from the room that defines it when it is first asked for: nothing is defined here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from altgrad_cli.reexports import reexports

if TYPE_CHECKING:
    from altgrad_cli.formats import FORMAT_REGISTRY, FP8Format, parse_format
    from altgrad_cli.formats.scale import compute_scale
    from altgrad_cli.metrics.stall import BitStallDetector, detect_bit_stall
    from altgrad_cli.metrics.weights.grid import (
        compute_stiffness_field,
        compute_ulp_distance,
        gradient_stiffness_correlation,
        grid_alignment_error,
        grid_alignment_statistics,
        ulp_statistics,
    )
    from altgrad_cli.rounding.quantize import dequantize, encode, quantize
    from altgrad_cli.rounding.scaling import AmaxHistory
    from altgrad_cli.training.watch.clipping import PartitionRelativeClipper
    from altgrad_cli.training.watch.fallback import FORMAT_FALLBACK, EmergencyMantissaShift

_HOME = {
    "FORMAT_REGISTRY": "formats",
    "FP8Format": "formats",
    "parse_format": "formats",
    "dequantize": "rounding.quantize",
    "encode": "rounding.quantize",
    "quantize": "rounding.quantize",
    "AmaxHistory": "rounding.scaling",
    "compute_scale": "formats.scale",
    "BitStallDetector": "metrics.stall",
    "detect_bit_stall": "metrics.stall",
    "compute_stiffness_field": "metrics.weights.grid",
    "compute_ulp_distance": "metrics.weights.grid",
    "gradient_stiffness_correlation": "metrics.weights.grid",
    "grid_alignment_error": "metrics.weights.grid",
    "grid_alignment_statistics": "metrics.weights.grid",
    "ulp_statistics": "metrics.weights.grid",
    "PartitionRelativeClipper": "training.watch.clipping",
    "EmergencyMantissaShift": "training.watch.fallback",
    "FORMAT_FALLBACK": "training.watch.fallback",
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

__getattr__, __dir__ = reexports(__name__, _HOME)
