"""The same claims on every device: rounding bit for bit, counts, whole runs; on CUDA where there is one."""

from __future__ import annotations

import pytest
import torch

from altgrad_cli.formats import parse_format
from altgrad_cli.formats.names import FORMAT_REGISTRY
from altgrad_cli.rounding.quantize import STATS, round_to_grid
from altgrad_cli.training.engine import train
from altgrad_cli.training.events import StepCompleted
from tests.small import small

REGIMES = ("fp32", "bf16", "standard", "uniform", "postln", "frozen")


def values() -> torch.Tensor:
    """Magnitudes of forty binades, both signs."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(1 << 14, generator=generator)
    return x * torch.exp2(torch.randint(-20, 20, x.shape, generator=generator).float())


@pytest.mark.parametrize(
    ("name", "dtype"), [("E5M2", torch.float8_e5m2), ("E4M3", torch.float8_e4m3fn), ("BF16", torch.bfloat16)]
)
def test_rounding_is_that_of_torchs_own_formats(device: str, name: str, dtype: torch.dtype) -> None:
    maximum = parse_format(name).max_representable_value
    x = values()[values().abs() < maximum]
    assert torch.equal(round_to_grid(x.to(device), name).cpu(), x.to(dtype).float())


@pytest.mark.parametrize("name", FORMAT_REGISTRY)
def test_a_device_rounds_and_counts_as_the_cpu_does(device: str, name: str) -> None:
    """Nearest and stochastic, at a scale that is no power of two; sums are in another order."""
    x, scale = values(), 0.3
    for rounding in ("nearest", "stochastic"):
        given = []
        for place in ("cpu", device):
            stats = torch.empty(len(STATS), dtype=torch.float64, device=place)
            generator = torch.Generator().manual_seed(2)
            options = {"rounding": rounding, "generator": generator, "stats": stats}
            given.append((round_to_grid(x.to(place), name, scale, **options).cpu(), stats.cpu()))  # type: ignore[arg-type]
        (q, counts), (other, theirs) = given
        assert torch.equal(q, other)
        exact = [index for index, column in enumerate(STATS) if not column.endswith("_sum")]
        assert torch.equal(counts[exact], theirs[exact])


@pytest.mark.parametrize("regime", REGIMES)
def test_a_run_on_a_device_is_the_same_twice_and_close_to_that_of_the_cpu(device: str, regime: str) -> None:
    settings = (f"precision.regime={regime}", "fp8_format=E3M4", "model.dropout=0.1", "max_steps=4")

    def losses(place: str) -> list[float]:
        config = small(*settings, f"runtime.device={place}")
        steps = [event for event in train(config) if isinstance(event, StepCompleted)]
        assert all(step.committed for step in steps)
        return [float(step.metrics["loss"] or 0) for step in steps]

    first = losses(device)
    assert first == losses(device)
    assert first == pytest.approx(losses("cpu"), rel=1e-2)
