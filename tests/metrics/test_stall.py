"""The study's literal stall detector against the exact scalar rounding of the format."""

from __future__ import annotations

import pytest
import torch

from altgrad_cli.formats import FORMAT_REGISTRY
from altgrad_cli.metrics.stall import BitStallDetector, detect_bit_stall


@pytest.mark.parametrize("name", ["E0M7", "E3M4", "E5M2", "E7M0"])
@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_agrees_with_a_loop(name, scale):
    fmt = FORMAT_REGISTRY[name]
    generator = torch.Generator().manual_seed(0)
    w, g = torch.randn(300, generator=generator) * 0.5, torch.randn(300, generator=generator)
    g[:30] = 0.0
    g[30:40] = 1e-11
    moved = (w - 0.05 * g).tolist()
    stalled = total = 0
    for before, after, grad in zip(w.tolist(), moved, g.tolist(), strict=True):
        if abs(grad) > 1e-10:
            total += 1
            stalled += fmt.to_real(fmt.to_bits(before / scale)) == fmt.to_real(fmt.to_bits(after / scale))
    assert detect_bit_stall(w, g, 0.05, fmt, torch.tensor(scale)) == (stalled, total)
    assert total == 260


def test_detector_sums_and_resets():
    fmt = FORMAT_REGISTRY["E5M2"]
    detector = BitStallDetector()
    assert detector.get_stall_rate() is None  # nothing counted is not a rate of zero
    w = torch.ones(10)
    detector.update(w, torch.full((10,), 1e-4), 0.01, fmt)
    detector.update(w, torch.full((10,), -100.0), 0.01, fmt)
    assert detector.get_stats() == {"stall_rate": 0.5, "stall_count": 10, "total_count": 20, "steps": 2}
    detector.reset()
    assert detector.get_stats() == {"stall_rate": None, "stall_count": 0, "total_count": 0, "steps": 0}


def test_nan_gradients_are_counted_and_never_stalled():
    w, g = torch.ones(2), torch.tensor([float("nan"), 1e-4])
    assert detect_bit_stall(w, g, 0.01, FORMAT_REGISTRY["E5M2"]) == (1, 2)
