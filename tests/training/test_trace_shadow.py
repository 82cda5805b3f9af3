"""The float32 shadow: equal bits where nothing is rounded, and better formats come closer to it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch

from altgrad_cli.config.run import TrainConfig
from altgrad_cli.metrics.gradient import SHADOW_COLUMNS, SHADOW_METRICS, measure_shadow
from altgrad_cli.metrics.spec import evaluate
from altgrad_cli.surgery.precision_plan import without_rounding
from altgrad_cli.training.measuring.reduce import pool
from altgrad_cli.training.passes.eager import run_pass, shadow_pass
from altgrad_cli.training.state import TrainState
from tests.training.states import gpt_state, random_batch, take_step

Tiny = Callable[..., TrainConfig]


def shadow_metrics(state: TrainState, gradient: torch.Tensor, reference: torch.Tensor) -> dict[str, float]:
    """All layers pooled."""
    rows = measure_shadow(state.flat.layout(blocks_only=False), gradient, reference).tolist()
    return evaluate(SHADOW_METRICS, pool(SHADOW_COLUMNS, rows))  # type: ignore[return-value]


def by_hand(gradient: torch.Tensor, reference: torch.Tensor) -> tuple[float, float]:
    """(cosine, SQNR) in float64."""
    g, r = gradient.double(), reference.double()
    cosine = torch.nn.functional.cosine_similarity(g, r, dim=0)
    return float(cosine), float(10 * torch.log10(r.square().sum() / (g - r).square().sum()))


@pytest.mark.parametrize("regime", ["fp32", "frozen", "standard", "uniform", "bf16", "postln"])
def test_the_shadow_is_bit_equal_where_no_role_is_rounded(tiny: Tiny, regime: str) -> None:
    state = gpt_state(tiny("fp8_format=E3M4", f"precision.regime={regime}", "model.dropout=0.1"))
    take_step(state)
    bypassed = run_pass(state, random_batch(2), plan=without_rounding(state.plan))
    shadow = shadow_pass(state, random_batch(2))
    assert torch.equal(bypassed.loss, shadow.loss)
    assert torch.equal(bypassed.gradient, shadow.gradient)
    found = shadow_metrics(state, bypassed.gradient.double(), shadow.gradient.double())
    assert found["gradient_cosine"] == pytest.approx(1, abs=1e-12)
    assert found["gradient_sqnr"] == math.inf
    assert found["gradient_norm_ratio"] == pytest.approx(1, abs=1e-12)
    assert found["gradient_sign_agreement"] == 1


@pytest.mark.parametrize("regime", ["standard", "uniform"])
def test_the_shadow_differs_where_something_is_rounded(tiny: Tiny, regime: str) -> None:
    state = gpt_state(tiny("fp8_format=E3M4", f"precision.regime={regime}"))
    result, shadow = run_pass(state, random_batch()), shadow_pass(state, random_batch())
    found = shadow_metrics(state, result.gradient, shadow.gradient)
    cosine, sqnr = by_hand(result.gradient, shadow.gradient)
    assert found["gradient_cosine"] == pytest.approx(cosine, abs=1e-5)
    assert found["gradient_sqnr"] == pytest.approx(sqnr, abs=1e-2)
    assert 0.5 < cosine < 1


def test_the_shadow_reads_the_stored_weights_and_not_their_ancestors(tiny: Tiny) -> None:
    stored = gpt_state(tiny("fp8_format=E7M0", "precision.regime=uniform"))
    plain = gpt_state(tiny("precision.regime=fp32"))
    assert not torch.equal(shadow_pass(stored, random_batch()).loss, run_pass(plain, random_batch()).loss)
    plain.flat.values.copy_(stored.flat.values)
    assert torch.equal(shadow_pass(stored, random_batch()).gradient, run_pass(plain, random_batch()).gradient)


def test_cosine_and_sqnr_rise_with_every_mantissa_bit(tiny: Tiny) -> None:
    """One batch, one init, exponent fixed: only the mantissa grows, from E5M1 to E5M7."""
    cosines, ratios = [], []
    for mantissa in range(1, 8):
        state = gpt_state(
            tiny(f"fp8_format=E5M{mantissa}", "precision.regime=standard", "precision.head_format=fp32")
        )
        batch = random_batch(3, rows=8)
        result, shadow = run_pass(state, batch), shadow_pass(state, batch)
        found = shadow_metrics(state, result.gradient.double(), shadow.gradient.double())
        cosines.append(found["gradient_cosine"])
        ratios.append(found["gradient_sqnr"])
    assert cosines == sorted(cosines)
    assert len(set(cosines)) == 7
    gains = [after - before for before, after in itertools.pairwise(ratios)]
    assert all(3 < gain < 9 for gain in gains), f"about 6 dB a bit, measured {gains}"
