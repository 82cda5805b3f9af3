"""The Hadamard transform: orthogonal, of both operands of dW and of nothing else."""

from __future__ import annotations

import pytest
import torch

from altgrad_cli.config.precision import HADAMARD_SIZES, PrecisionConfig
from altgrad_cli.errors import ConfigError
from altgrad_cli.formats import parse_format
from altgrad_cli.formats.reference import round_blocks_exact
from altgrad_cli.surgery.hadamard import mixed, mixing_matrix
from tests.surgery.test_linear import (
    loop_products,
    operands,
    plan_for,
    products,
    relative_error,
    rounding_for,
)

CPU = torch.device("cpu")


@pytest.mark.parametrize("size", HADAMARD_SIZES)
def test_the_matrix_is_orthogonal_with_entries_of_one_size(size: int) -> None:
    matrix = mixing_matrix(size, CPU).double()
    assert torch.allclose(matrix @ matrix.T, torch.eye(size, dtype=torch.float64), atol=1e-6)
    assert torch.allclose(matrix.abs(), torch.full((size, size), size**-0.5, dtype=torch.float64))
    assert (matrix[0] < 0).any(), "the signs are drawn"


def test_rows_are_mixed_in_groups_and_the_rest_is_left() -> None:
    x = torch.randn(2, 11, 3, generator=torch.Generator().manual_seed(1))  # 22 rows: 16, and 6 left over
    found = mixed(x, 16).view(22, 3)
    assert torch.allclose(found[:16], mixing_matrix(16, CPU) @ x.view(22, 3)[:16])
    assert torch.equal(found[16:], x.view(22, 3)[16:])


def test_an_outlier_becomes_values_of_a_quarter() -> None:
    x = torch.zeros(16, 1)
    x[5] = 8.0
    assert set(mixed(x, 16).abs().flatten().tolist()) == {2.0}


@pytest.mark.parametrize("name", ["MXFP4", "E2M1@4x4:e8m0", "E2M1@tensor:e8m0"])
def test_only_the_weight_gradient_has_mixed_operands(name: str) -> None:
    def rounded(matrix: torch.Tensor) -> torch.Tensor:
        return torch.tensor(round_blocks_exact(matrix.tolist(), parse_format(name))[0])

    x, w, dy = operands()
    plain = products(rounding_for(plan_for(name), None), x, w, dy)
    found = products(rounding_for(plan_for(name, hadamard=8), None), x, w, dy)  # 15 tokens: 8, and 7 left
    assert torch.equal(found[0], plain[0])
    assert torch.equal(found[1], plain[1])
    flat_x, flat_dy = mixed(x, 8).flatten(0, -2), mixed(dy, 8).flatten(0, -2)
    _, _, dw = loop_products(rounded(flat_x.T).T, w, rounded(flat_dy.T).T)
    assert relative_error(found[2], dw) < 1e-6
    assert relative_error(found[2], plain[2].double()) > 1e-3


def test_unrounded_the_product_is_what_it_was() -> None:
    x, w, dy = operands()
    alone = products(rounding_for(plan_for("FP16", ("gradients",)), None), x, w, dy)
    found = products(rounding_for(plan_for("FP16", ("gradients",), hadamard=4), None), x, w, dy)
    assert relative_error(found[2], alone[2].double()) < 1e-3, "A is mixed too, though it is not rounded"
    nothing = rounding_for(plan_for("FP16", ("weights",), hadamard=4), None)
    assert torch.equal(products(nothing, x, w, dy)[2], products(None, x, w, dy)[2])


def test_a_size_that_is_no_power_of_two_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"precision\.hadamard = 12 is no size"):
        PrecisionConfig(hadamard=12)
