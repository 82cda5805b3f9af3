"""What may be said about precision, and what is refused where it is said."""

from __future__ import annotations

import pytest

from altgrad_cli.config.precision import LayerRule, PrecisionConfig, ScalingConfig
from altgrad_cli.errors import ConfigError, FormatError


@pytest.mark.parametrize("margin", [0.25, 0.5, 1, 2, 4, 2.0**20])
def test_margins_are_powers_of_two(margin: float) -> None:
    assert ScalingConfig(margin=float(margin)).margin == margin


@pytest.mark.parametrize("margin", [0.0, -1.0, -2.0, 3.0, 1.5, 0.1, float("inf"), float("nan")])
def test_other_margins_are_refused(margin: float) -> None:
    with pytest.raises(ConfigError, match="power of two"):
        ScalingConfig(margin=margin)


def test_a_history_needs_a_step() -> None:
    with pytest.raises(ConfigError, match="history"):
        ScalingConfig(history=0)


def test_unknown_formats_are_refused_where_they_are_written() -> None:
    with pytest.raises(FormatError):
        LayerRule(pattern="*", format="E9M9")
    with pytest.raises(FormatError):
        PrecisionConfig(head_format="bf61")
