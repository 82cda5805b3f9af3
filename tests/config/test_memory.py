"""Bits a weight, against the memory that a built rule really holds."""

from __future__ import annotations

import pytest

from altgrad_cli.config.memory import bits_a_weight
from altgrad_cli.config.update_rules import RULES
from tests.small import small
from tests.training.states import gpt_state


@pytest.mark.parametrize("rule", RULES)
def test_moments_and_a_float32_residual_are_what_the_rule_holds(rule: str) -> None:
    config = small(f"optimizer.rule={rule}", "fp8_format=E7M0")
    bits = bits_a_weight(config)
    assert bits is not None and bits.weight == 8
    held = 32 * len(gpt_state(config).optimizer.slots)
    # madam follows AdamW outside the blocks, and needs none of its momentum inside
    assert bits.residual + bits.moments == held - (32 if rule == "madam" else 0)
    assert bits.total == 8 + bits.residual + bits.moments


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (("optimizer.rule=compensated", "optimizer.residual=bf16"), (8, 16, 64)),
        (("optimizer.rule=compensated", "optimizer.residual=E4M3", "optimizer.base=lion"), (8, 8, 32)),
        (("precision.regime=standard", "optimizer.rule=sgd"), (32, 0, 32)),
        (("precision.roles=[stored_weights,optimizer_state]",), (8, 0, 16)),
        (("fp8_format=MXFP8_E4M3",), (8.25, 0, 64)),
        (("optimizer.rule=compensated", "optimizer.residual=NVFP4"), (8, 4.5, 64)),
    ],
)
def test_a_residual_a_base_a_regime_and_role_o_count(
    overrides: tuple[str, ...], expected: tuple[int, int, int]
) -> None:
    bits = bits_a_weight(small("fp8_format=E7M0", *overrides))
    assert bits is not None
    assert (bits.weight, bits.residual, bits.moments) == expected


def test_nothing_is_claimed_of_torchs_own() -> None:
    assert bits_a_weight(small("optimizer.rule=torch.optim.Adafactor")) is None
