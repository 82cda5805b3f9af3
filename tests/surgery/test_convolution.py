"""The quantised convolution: its three products against a plain loop over operands rounded by ml_dtypes."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from altgrad_cli.config.precision import OPERAND_ROLES, Role
from altgrad_cli.errors import ConfigError
from altgrad_cli.formats import parse_format
from altgrad_cli.formats.reference import round_blocks_exact
from altgrad_cli.rounding.quantize import STATS
from altgrad_cli.surgery.convolution import QuantizedConvolution, check_convolutions
from altgrad_cli.surgery.linear import OperandRounding, PassSlot
from altgrad_cli.surgery.swapping import number_layers, prepare_layers
from tests.surgery.test_linear import plan_for, rounding_for

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")

Array = NDArray[np.float64]
CASTS = {"E4M3": ml_dtypes.float8_e4m3fn, "E2M1": ml_dtypes.float4_e2m1fn}
COUNT = STATS.index("count")


@dataclass(frozen=True)
class Case:
    """A convolution, and the size of its pictures."""

    inputs: int = 3
    outputs: int = 4
    kernel: tuple[int, ...] = (3, 3)
    sizes: tuple[int, ...] = (5, 4)
    stride: tuple[int, ...] = (1, 1)
    padding: Any = 0
    dilation: tuple[int, ...] = (1, 1)
    groups: int = 1
    mode: str = "zeros"
    bias: bool = False

    def layer(self) -> nn.Module:
        kind = nn.Conv2d if len(self.kernel) == 2 else nn.Conv1d
        options = {"padding": self.padding, "padding_mode": self.mode, "bias": self.bias}
        shape = (self.inputs, self.outputs, self.kernel, self.stride)
        return kind(*shape, dilation=self.dilation, groups=self.groups, **options)  # type: ignore[arg-type]

    @property
    def ends(self) -> list[tuple[int, int]]:
        """By how much each dimension is padded before and after."""
        if self.padding == "same":
            total = [d * (k - 1) for d, k in zip(self.dilation, self.kernel, strict=True)]
            return [(each // 2, each - each // 2) for each in total]
        each = (self.padding,) * len(self.kernel) if isinstance(self.padding, int) else self.padding
        return [(by, by) for by in each]


LINE: dict[str, Any] = {"kernel": (3,), "sizes": (7,), "stride": (1,), "dilation": (1,)}
CASES = {
    "plain": Case(),
    "bias and one place": Case(kernel=(1, 1), bias=True),
    "stride, padding": Case(stride=(2, 3), padding=(1, 2), bias=True),
    "dilation": Case(dilation=(2, 1), padding=1),
    "groups": Case(inputs=4, outputs=6, groups=2, padding=1),
    "a group a channel": Case(inputs=3, outputs=6, groups=3),
    "same": Case(padding="same", bias=True),
    "same, uneven": Case(kernel=(2, 4), padding="same"),
    "reflected": Case(padding=(1, 2), mode="reflect"),
    "wrapped": Case(padding=1, mode="circular", stride=(2, 1)),
    "uneven and repeated": Case(kernel=(4, 3), padding="same", mode="replicate"),
    "a line": Case(**LINE, bias=True),
    "a line with all": Case(**LINE | {"stride": (2,), "dilation": (2,)}, padding=2, inputs=4, groups=2),
}


def loop(case: Case, x: Array, w: Array, dy: Array) -> tuple[Array, Array, Array]:
    """Y, dX and dW as sums over single products, of operands as they are; the bias left out."""
    mode = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}[case.mode]
    ends = [(0, 0), (0, 0), *case.ends]
    padded = np.pad(x, ends, mode=mode)  # type: ignore[call-overload]
    # Which value of x stands where, so that what is padded gives its gradient back; -1 for zeros.
    numbers = np.pad(np.arange(x.size).reshape(x.shape) + 1, ends, mode=mode) - 1  # type: ignore[call-overload]
    y, dx, dw = np.zeros(dy.shape), np.zeros(x.size), np.zeros(w.shape)
    per_in, per_out = case.inputs // case.groups, case.outputs // case.groups
    for n, o, *place in itertools.product(*map(range, dy.shape)):
        for c, *tap in itertools.product(*map(range, w.shape[1:])):
            at = [p * s + t * d for p, s, t, d in zip(place, case.stride, tap, case.dilation, strict=True)]
            here, there = (n, o // per_out * per_in + c, *at), (o, c, *tap)
            y[(n, o, *place)] += padded[here] * w[there]
            dw[there] += padded[here] * dy[(n, o, *place)]
            if numbers[here] >= 0:
                dx[numbers[here]] += w[there] * dy[(n, o, *place)]
    return y, dx.reshape(x.shape), dw


def operands(case: Case, seed: int = 0) -> tuple[Tensor, nn.Module, Tensor]:
    """X, the layer, and dY: whole 64ths, so that sums of products of rounded ones are exact in float32."""
    torch.manual_seed(seed)
    layer = case.layer()
    with torch.no_grad():
        layer.weight.copy_((torch.randn(layer.weight.shape) * 64).round() / 64)  # type: ignore[operator,union-attr]
    x = (torch.randn(2, case.inputs, *case.sizes) * 64).round() / 64
    dy = (torch.randn(layer(x).shape) * 64).round() / 64
    return x, layer, dy


def products(
    layer: nn.Module, rounding: OperandRounding | None, x: Tensor, dy: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Y, dX, dW of the layer swapped."""
    slot = PassSlot()
    quantised = QuantizedConvolution(layer, slot)  # type: ignore[arg-type]
    number_layers(nn.Sequential(quantised))
    leaf = x.clone().requires_grad_()
    if rounding is None:
        y = quantised(leaf)
    else:
        with slot.use(rounding):
            y = quantised(leaf)
    return (y.detach(), *torch.autograd.grad(y, (leaf, quantised.weight), dy))


def cast(x: Tensor, name: str) -> Array:
    most = parse_format(name).max_representable_value
    return x.detach().clamp(-most, most).numpy().astype(CASTS[name]).astype(np.float64)


@pytest.mark.parametrize("name", CASTS)
@pytest.mark.parametrize("words", CASES)
def test_three_products_are_those_of_a_loop_over_casts_bit_for_bit(words: str, name: str) -> None:
    case = CASES[words]
    x, layer, dy = operands(case)
    y, dx, dw = loop(case, *(cast(each, name) for each in (x, layer.weight, dy)))  # type: ignore[arg-type]
    if case.bias:
        bias = layer.bias.detach().numpy().reshape(-1, *[1] * len(case.kernel))  # type: ignore[union-attr,operator]
        y = y.astype(np.float32) + bias
    found = products(layer, rounding_for(plan_for(name)), x, dy)
    for got, want in zip(found, (y, dx, dw), strict=True):
        assert np.array_equal(got.numpy(), want.astype(np.float32))
    assert not torch.equal(products(layer, None, x, dy)[0], found[0]), "the rounding must be visible"


@pytest.mark.parametrize("words", CASES)
def test_left_alone_it_has_torchs_own_bits(words: str) -> None:
    case = CASES[words]
    x, layer, dy = operands(case)
    x = x + torch.rand_like(x)
    leaf = x.clone().requires_grad_()
    y = layer(leaf)
    expected = (y.detach(), *torch.autograd.grad(y, (leaf, layer.weight), dy))  # type: ignore[arg-type]
    for rounding in (None, rounding_for(plan_for("E5M2", ()))):
        for got, want in zip(products(layer, rounding, x, dy), expected, strict=True):
            assert torch.equal(got, want)


@pytest.mark.parametrize("role", OPERAND_ROLES)
def test_each_role_rounds_its_own_operand_and_no_other(role: Role) -> None:
    case = CASES["stride, padding"]
    case = replace(case, bias=False)
    x, layer, dy = operands(case)
    given = {"weights": layer.weight, "activations": x, "gradients": dy}
    one = {
        each: cast(tensor, "E2M1") if each == role else tensor.detach().double().numpy()  # type: ignore[operator,arg-type,union-attr]
        for each, tensor in given.items()
    }
    expected = loop(case, one["activations"], one["weights"], one["gradients"])
    found = products(layer, rounding_for(plan_for("E2M1", (role,))), x, dy)
    for got, want in zip(found, expected, strict=True):
        assert np.array_equal(got.numpy(), want.astype(np.float32))


def test_a_single_picture_without_a_batch_is_taken_as_torch_takes_it() -> None:
    case = CASES["stride, padding"]
    x, layer, dy = operands(case)
    whole = products(layer, rounding_for(plan_for("E4M3")), x[:1], dy[:1])
    single = products(layer, rounding_for(plan_for("E4M3")), x[0], dy[0])
    assert torch.equal(single[0], whole[0][0])
    assert torch.equal(single[1], whole[1][0])
    assert torch.equal(single[2], whole[2])


def test_what_is_rounded_is_counted_once() -> None:
    x, layer, dy = operands(CASES["plain"])
    rounding = rounding_for(plan_for("E4M3"), count="all")
    products(layer, rounding, x, dy)
    assert rounding.stats is not None
    assert rounding.stats[0, :, COUNT].tolist() == [layer.weight.numel(), x.numel(), dy.numel()]  # type: ignore[operator,union-attr]
    assert torch.equal(rounding.rounded_weights[0].double(), torch.tensor(cast(layer.weight, "E4M3")))  # type: ignore[arg-type]


@pytest.mark.parametrize("words", [name for name, case in CASES.items() if case.groups == 1])
@pytest.mark.parametrize("block", ["8:e8m0", "row:float32", "4x8:e8m0"])
def test_blocks_lie_along_what_each_product_reduces_over(words: str, block: str) -> None:
    case = replace(CASES[words], bias=False)
    x, layer, dy = operands(case)
    format = parse_format(f"E2M1@{block}")

    def rounded(matrix: Array) -> Array:
        return np.array(round_blocks_exact(matrix.tolist(), format)[0])

    # The convolution of one value of x at a time, by W: which value of a patch it is.
    mode = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}[case.mode]
    padded = np.pad(x.numpy(), [(0, 0), (0, 0), *case.ends], mode=mode)  # type: ignore[call-overload]
    numbers = np.pad(np.arange(x.numel()).reshape(x.shape) + 1, [(0, 0), (0, 0), *case.ends], mode=mode) - 1  # type: ignore[call-overload]
    w = layer.weight.detach().numpy()  # type: ignore[operator,union-attr]
    places = [(n, *place) for n, *place in itertools.product(range(len(x)), *map(range, dy.shape[2:]))]
    taps = list(itertools.product(*map(range, w.shape[1:])))

    def at(place: tuple[int, ...], tap: tuple[int, ...]) -> tuple[int, ...]:
        moved = zip(place[1:], case.stride, tap[1:], case.dilation, strict=True)
        return (place[0], tap[0], *(p * s + t * d for p, s, t, d in moved))

    patches = np.array([[padded[at(place, tap)] for tap in taps] for place in places])
    matrix, flat_dy = w.reshape(len(w), -1), np.moveaxis(dy.numpy(), 1, -1).reshape(len(places), -1)
    y = rounded(patches) @ rounded(matrix).T
    back = rounded(flat_dy) @ rounded(matrix.T).T
    dw = rounded(flat_dy.T) @ rounded(patches.T).T
    dx = np.zeros(x.numel())
    for row, place in zip(back, places, strict=True):
        for value, tap in zip(row, taps, strict=True):
            if numbers[at(place, tap)] >= 0:
                dx[numbers[at(place, tap)]] += value
    found = products(layer, rounding_for(plan_for(format.name), None), x, dy)
    expected = (
        np.moveaxis(y.reshape(len(x), *dy.shape[2:], -1), -1, 1),
        dx.reshape(x.shape),
        dw.reshape(w.shape),
    )
    for got, want in zip(found, expected, strict=True):
        np.testing.assert_allclose(got.numpy(), want, rtol=1e-5, atol=1e-5)


def test_a_hadamard_matrix_leaves_the_weight_gradient_as_it_was_but_for_its_rounding() -> None:
    case = Case(padding=1)
    x, layer, dy = operands(case)
    plain = products(layer, None, x, dy)
    fine = rounding_for(plan_for("FP16", hadamard=4), 2.0**-4)
    assert not fine.leaves_alone(0)
    for got, want in zip(products(layer, fine, x, dy), plain, strict=True):
        assert float((got - want).norm() / want.norm()) < 1e-3
    coarse = [rounding_for(plan_for("E2M1", hadamard=size), None) for size in (None, 4)]
    one, other = (products(layer, rounding, x, dy) for rounding in coarse)
    assert torch.allclose(one[0], other[0], atol=1e-5) and torch.allclose(one[1], other[1], atol=1e-5)
    assert not torch.allclose(one[2], other[2], atol=1e-2)


def test_what_cannot_be_is_refused_before_the_first_step() -> None:
    def check(format: str, groups: int = 1, **options: Any) -> None:
        layers = prepare_layers(nn.Sequential(nn.Conv2d(4, 4, 3, groups=groups)), PassSlot())
        check_convolutions(plan_for(format, **options), layers)

    check("MXFP4")
    check("E4M3", groups=2)
    check("E4M3", hadamard=4)
    for words, given in {
        "cannot be stored in blocks": {"format": "MXFP4", "roles": ("stored_weights",)},
        "has 2 groups, and blocks": {"format": "MXFP4", "groups": 2},
        "has 2 groups, and a Hadamard": {"format": "E4M3", "groups": 2, "hadamard": 4},
    }.items():
        with pytest.raises(ConfigError, match=words) as error:
            check(**given)  # type: ignore[arg-type]
        assert error.value.hint


def test_a_swapped_model_computes_the_same_with_the_same_parameters() -> None:
    class Heir(nn.Conv2d):
        """What somebody made of torch's layer."""

    torch.manual_seed(0)
    shared = nn.Conv2d(4, 4, 3, padding=1)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), shared, nn.ReLU(), shared, Heir(4, 2, 1), nn.Flatten(2), nn.Conv1d(2, 3, 5)
    )
    x = torch.randn(2, 1, 7, 7)
    before, parameters = model(x), {name: id(each) for name, each in model.named_parameters()}
    layers = prepare_layers(model, PassSlot())
    assert [name for name, _ in layers] == ["0", "1", "6"]
    assert torch.equal(model(x), before)
    assert {name: id(each) for name, each in model.named_parameters()} == parameters
    assert model[1] is model[3] and type(model[4]) is Heir
