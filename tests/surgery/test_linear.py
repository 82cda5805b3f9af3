"""The quantised linear layer: its three products against operands rounded by somebody else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gfloat
import pytest
import torch
from gfloat.formats import format_info_ocp_e4m3, format_info_ocp_e5m2
from torch import Tensor, nn
from torch.nn import functional as F

from altgrad_cli.config.precision import OPERAND_ROLES, Role, ScalingConfig
from altgrad_cli.errors import UsageError
from altgrad_cli.formats import FP8Format, parse_format
from altgrad_cli.formats.reference import round_blocks_exact
from altgrad_cli.rounding.quantize import STATS, quantize
from altgrad_cli.surgery.linear import (
    OperandRounding,
    PassSlot,
    QuantizedLinear,
)
from altgrad_cli.surgery.precision_plan import LayerPrecision, PrecisionPlan
from altgrad_cli.surgery.swapping import number_layers, prepare_layers, swap_layers
from tests.conftest import needed

BATCH, TIME, WIDTH_IN, WIDTH_OUT = 3, 5, 24, 40
COUNT, AMAX, OVERFLOW = (STATS.index(name) for name in ("count", "amax", "overflow"))


def plan_for(format_name: str, roles: tuple[Role, ...] = OPERAND_ROLES, **options: Any) -> PrecisionPlan:
    fmt = parse_format(format_name)
    layer = LayerPrecision("layer", tuple((role, fmt) for role in roles), "amax")
    return PrecisionPlan((layer,), **{"frozen_blocks": False} | options)


def rounding_for(plan: PrecisionPlan, scale: float | None = 1.0, **options: object) -> OperandRounding:
    scales = {} if scale is None else {(0, role): torch.tensor(scale) for role in range(3)}
    return OperandRounding(plan, ScalingConfig(), scales, **options)  # type: ignore[arg-type]


def operands(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """X (B, T, in), W (out, in) and dY (B, T, out), of sizes that reach subnormals of an unscaled format."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(BATCH, TIME, WIDTH_IN, generator=generator)
    w = torch.randn(WIDTH_OUT, WIDTH_IN, generator=generator) * 0.05
    dy = torch.randn(BATCH, TIME, WIDTH_OUT, generator=generator) * 1e-3
    return x, w, dy


def products(
    rounding: OperandRounding | None, x: Tensor, w: Tensor, dy: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Y, dX, dW of the layer."""
    slot = PassSlot()
    layer = QuantizedLinear(nn.Linear(WIDTH_IN, WIDTH_OUT, bias=False), slot)
    number_layers(nn.Sequential(layer))
    layer.weight.data.copy_(w)
    x = x.clone().requires_grad_()
    if rounding is None:
        y = layer(x)
        dx, dw = torch.autograd.grad(y, (x, layer.weight), dy)
        return y.detach(), dx, dw
    with slot.use(rounding):
        y = layer(x)
        dx, dw = torch.autograd.grad(y, (x, layer.weight), dy)
    return y.detach(), dx, dw


def loop_products(x: Tensor, w: Tensor, dy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Y = X W^T, dX = dY W, dW = dY^T X, element by element in float64."""
    rows = x.flatten(0, -2).double().tolist()
    weight, grads = w.double().tolist(), dy.flatten(0, -2).double().tolist()
    y = [[sum(a * b for a, b in zip(row, out, strict=True)) for out in weight] for row in rows]
    dx = [[sum(g[o] * weight[o][i] for o in range(WIDTH_OUT)) for i in range(WIDTH_IN)] for g in grads]
    dw = [
        [sum(g[o] * row[i] for g, row in zip(grads, rows, strict=True)) for i in range(WIDTH_IN)]
        for o in range(WIDTH_OUT)
    ]
    shape = (BATCH, TIME)
    return (
        torch.tensor(y, dtype=torch.float64).view(*shape, -1),
        torch.tensor(dx, dtype=torch.float64).view(*shape, -1),
        torch.tensor(dw, dtype=torch.float64),
    )


def relative_error(got: Tensor, want: Tensor) -> float:
    return float((got.double() - want).norm() / want.norm())


def by_gfloat(info: object) -> Callable[[Tensor], Tensor]:
    def rounded(x: Tensor) -> Tensor:
        values = [gfloat.round_float(info, v, sat=True) for v in x.double().flatten().tolist()]
        return torch.tensor(values, dtype=torch.float32).view(x.shape)

    return rounded


ORACLES: dict[str, Callable[[Tensor], Tensor]] = {
    "E5M2": by_gfloat(format_info_ocp_e5m2),
    "E4M3": by_gfloat(format_info_ocp_e4m3),
    "BF16": lambda x: x.to(torch.bfloat16).float(),
    "FP16": lambda x: x.to(torch.float16).float(),
}


@pytest.mark.parametrize("name", ORACLES)
def test_three_products_equal_a_loop_over_rounded_operands(name: str) -> None:
    x, w, dy = operands()
    rounded = ORACLES[name]
    measured = products(rounding_for(plan_for(name)), x, w, dy)
    expected = loop_products(rounded(x), rounded(w), rounded(dy))
    for got, want in zip(measured, expected, strict=True):
        assert relative_error(got, want) < 1e-6
    plain = loop_products(x, w, dy)
    for got, want in zip(measured, plain, strict=True):
        assert relative_error(got, want) > 1e-4, "the rounding must be visible"


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("BF16", torch.bfloat16), ("E5M2", torch.float8_e5m2), ("E4M3", torch.float8_e4m3fn)],
)
@pytest.mark.parametrize("seed", range(4))
def test_products_are_those_of_torchs_own_casts_bit_for_bit(name: str, dtype: torch.dtype, seed: int) -> None:
    x, w, dy = operands(seed)
    q = [tensor.to(dtype).float() for tensor in (x, w, dy)]
    y, dx, dw = products(rounding_for(plan_for(name)), x, w, dy)
    assert torch.equal(y, F.linear(q[0], q[1]))
    assert torch.equal(dx, q[2] @ q[1])
    assert torch.equal(dw, q[2].flatten(0, 1).T @ q[0].flatten(0, 1))


def test_bf16_products_are_those_of_the_reference_layer() -> None:
    """The same against autograd: a float32 nn.Linear fed with bfloat16 values."""
    x, w, dy = operands(9)
    reference = nn.Linear(WIDTH_IN, WIDTH_OUT, bias=False)
    reference.weight.data.copy_(w.bfloat16().float())
    leaf = x.bfloat16().float().requires_grad_()
    expected = reference(leaf)
    expected.backward(dy.bfloat16().float())
    y, dx, dw = products(rounding_for(plan_for("BF16")), x, w, dy)
    assert torch.equal(y, expected.detach())
    torch.testing.assert_close(dx, leaf.grad, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(dw, reference.weight.grad, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("role", OPERAND_ROLES)
def test_each_role_rounds_its_own_operand_and_no_other(role: Role) -> None:
    x, w, dy = operands()
    cast = lambda tensor: tensor.to(torch.float8_e5m2).float()  # noqa: E731
    qw, qx, qg = (
        cast(tensor) if role == name else tensor
        for name, tensor in zip(OPERAND_ROLES, (w, x, dy), strict=True)
    )
    y, dx, dw = products(rounding_for(plan_for("E5M2", (role,))), x, w, dy)
    assert torch.equal(y, F.linear(qx, qw))
    assert torch.equal(dx, qg @ qw)
    assert torch.equal(dw, qg.flatten(0, 1).T @ qx.flatten(0, 1))


def test_without_roles_the_layer_is_a_plain_linear_layer() -> None:
    x, w, dy = operands()
    bypassed = products(rounding_for(plan_for("E5M2", ())), x, w, dy)
    outside = products(None, x, w, dy)
    for one, other in zip(bypassed, outside, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-8)


def test_a_power_of_two_scale_shifts_the_grid() -> None:
    x, w, dy = operands()
    scale = 2.0**-9
    y, dx, _ = products(rounding_for(plan_for("E4M3"), scale), x, w, dy)
    q = [(tensor / scale).clamp(-448, 448).to(torch.float8_e4m3fn).float() * scale for tensor in (x, w, dy)]
    assert torch.equal(y, F.linear(q[0], q[1]))
    assert torch.equal(dx, q[2] @ q[1])


def test_a_missing_scale_is_taken_from_the_tensor_and_rounded_up_to_a_power_of_two() -> None:
    x, w, dy = operands()
    rounding = rounding_for(plan_for("E5M2"), None)
    products(rounding, x, w, dy)
    for role, tensor in zip(range(3), (w, x, dy), strict=True):
        exact = float(tensor.abs().max()) / 57344
        scale = rounding.scales_used[0, role]
        assert float(scale).hex().startswith("0x1.0000000000000p")
        assert exact <= scale < 2 * exact


def test_statistics_are_counted_where_rounding_happens() -> None:
    x, w, dy = operands()
    w[0, 0], w[1, 1] = 61439.0, -61440.0  # E5M2 overflows from 61440 on, clips above 57344
    rounding = rounding_for(plan_for("E5M2", ("weights", "gradients")), count="all")
    products(rounding, x, w, dy)
    assert rounding.stats is not None
    weights, activations, gradients = rounding.stats[0]
    assert weights[COUNT] == w.numel()
    assert weights[AMAX] == 61440
    assert weights[OVERFLOW] == 1
    assert activations.isnan().all(), "what was not rounded was not measured"
    assert gradients[COUNT] == dy.numel()
    assert gradients[AMAX] == dy.abs().max().double()


def test_a_pass_that_counts_only_extremes_gives_the_same_products() -> None:
    x, w, dy = operands()
    everything = rounding_for(plan_for("E5M2"), count="all")
    little = rounding_for(plan_for("E5M2"), count="extremes")
    for ours, theirs in zip(products(everything, x, w, dy), products(little, x, w, dy), strict=True):
        assert torch.equal(ours, theirs)
    assert everything.stats is not None and little.stats is not None
    assert torch.equal(everything.stats[..., AMAX], little.stats[..., AMAX])
    assert little.stats[..., COUNT].isnan().all()


def test_the_rounded_gradient_of_one_layer_does_not_outlive_its_products() -> None:
    # Q(dY) lives in memory that the next layer's takes over; what came of it must not.
    x, w, dy = operands()
    rounding = rounding_for(plan_for("E5M2"))
    first = products(rounding, x, w, dy)
    kept = [tensor.clone() for tensor in first]
    products(rounding, x, w, -3 * dy)
    for tensor, before in zip(first, kept, strict=True):
        assert torch.equal(tensor, before)


def test_a_layer_left_alone_has_the_bits_of_its_three_products() -> None:
    x, w, dy = operands()
    nothing = plan_for("E5M2", ())
    seen: list[int] = []
    tapped = rounding_for(nothing, tap=lambda layer, role, operand: seen.append(layer) or operand)
    assert rounding_for(nothing).leaves_alone(0) and not tapped.leaves_alone(0)
    for left, through in zip(
        products(rounding_for(nothing), x, w, dy), products(tapped, x, w, dy), strict=True
    ):
        assert torch.equal(left, through)
    assert len(seen) == 3


def test_the_weight_kept_for_the_backward_pass_is_the_rounded_one() -> None:
    x, w, dy = operands()
    rounding = rounding_for(plan_for("E5M2", ("weights",)))
    products(rounding, x, w, dy)
    assert torch.equal(rounding.rounded_weights[0], w.to(torch.float8_e5m2).float())


@pytest.mark.parametrize(
    "block", ["8:e8m0", "row:float32", "16:e4m3", "4x8:e8m0:ceil", "8x8:e8m0", "col:bf16"]
)
def test_each_product_has_its_operands_in_blocks_along_what_it_reduces_over(block: str) -> None:
    def rounded(matrix: Tensor) -> Tensor:
        return torch.tensor(round_blocks_exact(matrix.tolist(), format)[0])

    x, w, dy = operands()
    format = parse_format(f"E2M1@{block}")
    rounding = rounding_for(plan_for(format.name), None, count="all")
    found = products(rounding, x, w, dy)
    flat_x, flat_dy = x.flatten(0, -2), dy.flatten(0, -2)
    # Each product as a plain loop, its operands laid so that the reduced dimension is the last.
    y, _, _ = loop_products(rounded(flat_x), rounded(w), flat_dy)
    _, dx, _ = loop_products(flat_x, rounded(w.T).T, rounded(flat_dy))
    _, _, dw = loop_products(rounded(flat_x.T).T, w, rounded(flat_dy.T).T)
    for got, expected in zip(found, (y.view_as(found[0]), dx.view_as(x), dw), strict=True):
        assert relative_error(got, expected) < 1e-6
    assert torch.equal(rounding.rounded_weights[0], rounded(w))
    assert rounding.stats is not None
    assert rounding.stats[0, :, COUNT].tolist() == [w.numel(), x.numel(), dy.numel()]
    apart = not torch.equal(rounded(w), rounded(w.T).T)
    assert apart == (block != "8x8:e8m0")


def test_weights_in_tiles_and_their_partners_in_lines_as_fp8_tiles_has_them() -> None:
    """W in one set of tiles for both of its products; A and G in blocks along what each reduces over."""

    def rounded(matrix: Tensor, block: str) -> Tensor:
        return torch.tensor(round_blocks_exact(matrix.tolist(), parse_format(f"E2M1@{block}:float32"))[0])

    x, w, dy = operands()
    tiles, line = parse_format("E2M1@8x8:float32"), parse_format("E2M1@8:float32")
    formats: tuple[tuple[Role, FP8Format], ...] = tuple(zip(OPERAND_ROLES, (tiles, line, line), strict=True))
    plan = PrecisionPlan((LayerPrecision("layer", formats, "amax"),), frozen_blocks=False)
    found = products(rounding_for(plan, None), x, w, dy)
    flat_x, flat_dy = x.flatten(0, -2), dy.flatten(0, -2)
    y, dx, _ = loop_products(rounded(flat_x, "8"), rounded(w, "8x8"), rounded(flat_dy, "8"))
    _, _, dw = loop_products(rounded(flat_x.T, "8").T, w, rounded(flat_dy.T, "8").T)
    for got, expected in zip(found, (y.view_as(found[0]), dx.view_as(x), dw), strict=True):
        assert relative_error(got, expected) < 1e-6
    for other in (("8", "8"), ("8x8", "8x8")):  # neither of the two for all operands is the same thing
        wrong, _, _ = loop_products(rounded(flat_x, other[0]), rounded(w, other[1]), flat_dy)
        assert relative_error(found[0], wrong.view_as(found[0])) > 1e-3


def test_an_evaluation_rounds_for_the_forward_product_alone() -> None:
    _, w, _ = operands()
    rounding = rounding_for(plan_for("MXFP4"), None, deterministic=True)
    first, second = rounding.round(0, 0, w)
    assert first is second


def test_ieee_overflow_gives_inf_and_saturation_the_maximum() -> None:
    x, w, dy = operands()
    w[0, 0] = 1e6
    saturated = rounding_for(plan_for("E5M2"))
    products(saturated, x, w, dy)
    overflowing = rounding_for(plan_for("E5M2"), overflow="ieee")
    products(overflowing, x, w, dy)
    assert saturated.rounded_weights[0][0, 0] == 57344
    assert overflowing.rounded_weights[0][0, 0] == torch.inf


def test_nan_stays_nan_through_all_three_products() -> None:
    x, w, dy = operands()
    x[0, 0, 0] = torch.nan
    for name in ("E7M0", "E0M7", "E5M2"):
        y, dx, dw = products(rounding_for(plan_for(name)), x, w, dy)
        assert y[0, 0].isnan().all() and not y[0, 1:].isnan().any()
        assert dw[:, 0].isnan().all()
        assert not dx.isnan().any()


def test_a_tap_sees_every_operand_before_rounding_and_may_replace_it() -> None:
    x, w, dy = operands()
    seen: list[tuple[int, Role]] = []

    def tap(layer: int, role: Role, operand: Tensor) -> Tensor:
        seen.append((layer, role))
        return torch.zeros_like(operand) if role == "activations" else operand

    y, dx, dw = products(rounding_for(plan_for("E5M2"), tap=tap), x, w, dy)
    assert seen == [(0, "weights"), (0, "activations"), (0, "gradients")]
    assert not y.any() and not dw.any() and dx.any()


def test_stochastic_operands_follow_their_generator_and_evaluation_rounds_to_nearest() -> None:
    x, w, dy = operands()
    plan = plan_for("E5M2", stochastic=OPERAND_ROLES)
    runs = [
        products(rounding_for(plan, generator=torch.Generator().manual_seed(seed)), x, w, dy)[0]
        for seed in (1, 1, 2)
    ]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])
    evaluated = products(rounding_for(plan, deterministic=True), x, w, dy)[0]
    assert torch.equal(evaluated, products(rounding_for(plan_for("E5M2")), x, w, dy)[0])


def test_gradients_alone_are_rounded_stochastically() -> None:
    x, w, dy = operands()
    plan = plan_for("E5M2", stochastic=("gradients",))
    y, dx, dw = products(rounding_for(plan, generator=torch.Generator().manual_seed(1)), x, w, dy)
    nearest = products(rounding_for(plan_for("E5M2")), x, w, dy)
    g = quantize(dy, "E5M2", rounding="stochastic", generator=torch.Generator().manual_seed(1))
    a, b = quantize(x, "E5M2"), quantize(w, "E5M2")
    assert torch.equal(y, nearest[0]) and not torch.equal(dw, nearest[2])
    assert torch.equal(dx, g @ b)
    assert torch.equal(dw, g.flatten(0, -2).T @ a.flatten(0, -2))


def test_the_slot_is_given_back_after_an_error() -> None:
    slot = PassSlot()
    with pytest.raises(RuntimeError, match="planned"), slot.use(rounding_for(plan_for("E5M2"))):
        raise RuntimeError("planned")
    assert slot.rounding is None


def test_layers_are_numbered_in_execution_order() -> None:
    slot = PassSlot()
    network = nn.Sequential(nn.Linear(2, 3), nn.GELU(), nn.Linear(3, 4))
    assert [(name, layer.index) for name, layer in prepare_layers(network, slot)] == [("0", 0), ("2", 1)]


def test_a_model_that_is_a_single_layer_cannot_be_swapped_in_place() -> None:
    with pytest.raises(UsageError, match="a single Linear"):
        prepare_layers(nn.Linear(2, 2), PassSlot())


def test_a_swapped_model_computes_the_same_with_the_same_parameters() -> None:
    """Biases, a tied weight and a layer that stands twice; a layer of a subclass stays as it is."""

    class Heir(nn.Linear):
        """What somebody made of torch's layer."""

    torch.manual_seed(0)
    shared = nn.Linear(4, 4)
    model = nn.Sequential(nn.Embedding(5, 4), shared, nn.GELU(), shared, Heir(4, 3), nn.Linear(3, 5))
    tied = nn.Linear(4, 5, bias=False)
    tied.weight = model[0].weight
    model.append(nn.Sequential(nn.Linear(5, 4), tied))
    before, parameters = model(torch.arange(5)), dict(model.named_parameters())
    swap_layers(model, nn.Linear, lambda linear: QuantizedLinear(linear, PassSlot()))
    assert torch.equal(model(torch.arange(5)), before)
    assert {name: id(p) for name, p in model.named_parameters()} == {n: id(p) for n, p in parameters.items()}
    assert model[1] is model[3] and isinstance(model[1], QuantizedLinear)
    assert type(model[4]) is Heir
    assert isinstance(model[6][1], QuantizedLinear) and model[6][1].weight is model[0].weight


def test_a_bias_is_added_to_the_rounded_product() -> None:
    torch.manual_seed(0)
    linear, x = nn.Linear(4, 3), torch.randn(2, 4)
    slot = PassSlot()
    layer = QuantizedLinear(linear, slot)
    number_layers(nn.Sequential(layer))
    with slot.use(rounding_for(plan_for("E5M2"))):
        y = layer(x)
    a, w = (tensor.detach().to(torch.float8_e5m2).float() for tensor in (x, linear.weight))
    assert not torch.equal(a, x)
    assert torch.allclose(y, a @ w.T + linear.bias, atol=1e-6)


def test_dropout_draws_from_the_pass_alone_and_keeps_the_mean() -> None:
    slot, x = PassSlot(), torch.ones(400, 100)
    model = nn.Sequential(nn.Dropout(0.25), nn.Dropout(0))
    prepare_layers(model, slot)
    assert model(x) is x, "without noise nothing is dropped: evaluation"
    state = torch.random.get_rng_state()
    noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(3))
    with slot.use(rounding_for(plan_for("E5M2")), lambda given: noise):
        dropped = model(x)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(dropped == 0, noise < 0.25)
    assert set(dropped.unique().tolist()) == {0.0, float(torch.tensor(1 / 0.75))}
    assert slot.noise is None


def test_a_conv1d_of_transformers_is_a_linear_layer_that_lies_the_other_way_round() -> None:
    transformers = needed("transformers.pytorch_utils")
    x, w, dy = operands()
    conv = transformers.Conv1D(WIDTH_OUT, WIDTH_IN)
    with torch.no_grad():
        conv.weight.copy_(w.T)
        conv.bias.fill_(0.5)
    x.requires_grad_()
    expected = conv(x)
    own = torch.autograd.grad(expected, (x, conv.weight), dy)
    slot = PassSlot()
    model = nn.Sequential(conv, conv)
    ((name, layer),) = prepare_layers(model, slot)
    assert (name, layer.weight.shape) == ("0", (WIDTH_OUT, WIDTH_IN)) and model[1] is layer
    plain = layer(x)
    assert torch.allclose(plain, expected, atol=1e-6)
    dx, dw = torch.autograd.grad(plain, (x, layer.weight), dy)
    assert torch.allclose(dx, own[0], atol=1e-6) and torch.allclose(dw.T, own[1], atol=1e-6)

    rounding = rounding_for(plan_for("E4M3"), 2.0**-4)
    with slot.use(rounding):
        rounded = layer(x)
        rounded_grads = torch.autograd.grad(rounded, (x, layer.weight), dy)
    y, dx, dw = products(rounding_for(plan_for("E4M3"), 2.0**-4), x.detach(), w, dy)
    assert torch.equal(rounded, y + 0.5)
    assert torch.equal(rounded_grads[0], dx) and torch.equal(rounded_grads[1], dw)


def test_a_conv1d_that_shares_its_weight_with_another_kind_of_layer_is_refused() -> None:
    transformers = needed("transformers.pytorch_utils")
    conv, embedding = transformers.Conv1D(4, 6), nn.Embedding(6, 4)
    conv.weight = embedding.weight
    with pytest.raises(UsageError, match=r"shares its weight 1\.weight"):
        prepare_layers(nn.Sequential(conv, embedding), PassSlot())
