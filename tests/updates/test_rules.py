"""The update rules against torch, plain loops over Python floats, and the papers' equations in float64."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from altgrad_cli.config.run import OptimizerConfig
from altgrad_cli.config.update_rules import RULES
from altgrad_cli.errors import ConfigError, UsageError
from altgrad_cli.formats import parse_format
from altgrad_cli.rounding.grid import Grid, stored_grid
from altgrad_cli.rounding.quantize import round_to_grid
from altgrad_cli.updates.flat import FlatParameters, flatten
from altgrad_cli.updates.registry import build_rule
from altgrad_cli.updates.rule import UpdateRule

ONE = torch.ones((), dtype=torch.float64)
RATE = 0.01


class Net(nn.Module):
    """One linear weight, another matrix, a vector."""

    def __init__(self, scale: float = 0.1) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 5, bias=False)
        self.table = nn.Embedding(3, 4)
        self.gain = nn.Parameter(torch.ones(7))
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for parameter in (self.linear.weight, self.table.weight):
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)


def on(name: str, scale: float = 1.0) -> Callable[[int], tuple[Grid, Tensor]]:
    return lambda layer: (stored_grid(parse_format(name)), ONE * scale)


def network(scale: float = 0.1) -> FlatParameters:
    return flatten(Net(scale), ["linear"])


def gradients(flat: FlatParameters, steps: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(9)
    return [torch.randn(flat.values.shape, generator=generator) * 10.0**-k for k in range(steps)]


def take(rule: UpdateRule, flat: FlatParameters, gradient: Tensor, store: Callable[[Tensor], Tensor]) -> None:
    """One step, the linear weights stored as ``store`` rounds them."""
    proposal = rule.propose(gradient, RATE, on("E3M4", 2.0**-9))
    end = flat.linear_end
    flat.values[:end] = store(proposal.parameters[:end])
    flat.values[end:] = proposal.parameters[end:]
    rule.commit(proposal, flat.values)


def as_is(x: Tensor) -> Tensor:
    return x


def coarse(x: Tensor) -> Tensor:
    """Multiples of 1/64: every rounding takes something."""
    return torch.round(x * 64) / 64


# --- against torch, bit for bit -------------------------------------------------------------------

TORCH = {
    "sgd": lambda groups: torch.optim.SGD(groups, lr=RATE, momentum=0.9, foreach=False),
    "adamw": lambda groups: torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.95), foreach=False),
    "torch.optim.NAdam": lambda groups: torch.optim.NAdam(groups, lr=RATE, betas=(0.9, 0.95), foreach=False),
    "torch.optim.RMSprop": lambda groups: torch.optim.RMSprop(groups, lr=RATE, eps=1e-8, foreach=False),
    "torch.optim.Adafactor": lambda groups: torch.optim.Adafactor(groups, lr=RATE, foreach=False),
    "torch.optim.ASGD": lambda groups: torch.optim.ASGD(groups, lr=RATE, foreach=False),
}


@pytest.mark.parametrize("name", TORCH)
def test_equal_to_torchs_own_over_ten_steps(name: str) -> None:
    flat, theirs = network(), Net()
    rule = build_rule(OptimizerConfig(rule=name), flat)
    matrices = [theirs.linear.weight, theirs.table.weight]
    optimizer = TORCH[name](
        [{"params": matrices, "weight_decay": 0.1}, {"params": [theirs.gain], "weight_decay": 0.0}]
    )
    for gradient in gradients(flat, 10):
        for key, parameter in theirs.named_parameters():
            parameter.grad = flat.named(gradient)[key].clone()
        optimizer.step()
        take(rule, flat, gradient, as_is)
        for key, parameter in theirs.named_parameters():
            assert torch.equal(flat.named(flat.values)[key], parameter.detach()), key


@pytest.mark.parametrize("name", [*RULES, "torch.optim.NAdam", "torch.optim.Adafactor"])
def test_a_proposal_that_is_not_committed_never_happened(name: str) -> None:
    flat = network()
    rule = build_rule(OptimizerConfig(rule=name), flat)
    first, second, third = gradients(flat, 3)
    take(rule, flat, first, coarse)
    kept = {slot: {key: t.clone() for key, t in ts.items()} for slot, ts in rule.state_dict().items()}
    values = flat.values.clone()
    rule.propose(second, RATE, on("E5M2"))
    assert torch.equal(flat.values, values)
    for slot, tensors in rule.state_dict().items():
        assert all(torch.equal(tensor, kept[slot][key]) for key, tensor in tensors.items())
    take(rule, flat, third, coarse)
    assert rule.steps == 2


@pytest.mark.parametrize("name", [*RULES, "torch.optim.NAdam", "torch.optim.Adafactor", "torch.optim.ASGD"])
def test_saved_and_loaded_it_goes_on_as_if_nothing_had_been(name: str) -> None:
    flat, other = network(), network()
    options = OptimizerConfig(rule=name, residual="E4M3")
    rule = build_rule(options, flat)
    *first, last = gradients(flat, 4)
    for gradient in first:
        take(rule, flat, gradient, coarse)
    again = build_rule(options, other)
    saved = {slot: {key: t.clone() for key, t in ts.items()} for slot, ts in rule.state_dict().items()}
    other.values.copy_(flat.values)
    again.load_state_dict(saved, rule.steps)
    for each, parameters in ((rule, flat), (again, other)):
        take(each, parameters, last, coarse)
    assert torch.equal(flat.values, other.values)
    assert rule.steps == again.steps == 4
    for slot, tensors in rule.state_dict().items():
        assert all(torch.equal(t, again.state_dict()[slot][key]) for key, t in tensors.items()), slot


@pytest.mark.parametrize("name", [*RULES, "torch.optim.NAdam"])
def test_what_is_frozen_stays(name: str) -> None:
    flat = network()
    rule = build_rule(OptimizerConfig(rule=name), flat)
    (gradient,) = gradients(flat, 1)
    proposal = rule.propose(gradient, RATE, on("E5M2"), flat.linear_end)
    assert torch.equal(proposal.parameters[: flat.linear_end], flat.values[: flat.linear_end])
    assert not torch.equal(proposal.parameters, flat.values)


# --- against plain loops and equations ------------------------------------------------------------


def test_lion_is_the_papers_program_in_float64() -> None:
    flat = network()
    rule = build_rule(OptimizerConfig(rule="lion", betas=(0.9, 0.99), weight_decay=0.1), flat)
    w, m = flat.values.double(), torch.zeros(flat.values.shape, dtype=torch.float64)
    decay = torch.where(torch.arange(len(w)) < flat.matrix_end, 0.1, 0.0).double()
    for gradient in gradients(flat, 5):
        g = gradient.double()
        w = w * (1 - RATE * decay) - RATE * torch.sign(0.9 * m + 0.1 * g)
        m = 0.99 * m + 0.01 * g
        take(rule, flat, gradient, as_is)
    assert torch.allclose(flat.values.double(), w, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("base", ["adamw", "sgd", "lion"])
def test_compensated_is_a_plain_loop_bit_for_bit(base: str) -> None:
    """w' = Q(w + dw + c), c' = w + dw + c - w', float by float; dw by the base rule beside it."""
    flat, twin = network(), network()
    rule = build_rule(OptimizerConfig(rule="compensated", base=base), flat)
    plain = build_rule(OptimizerConfig(rule=base), twin)
    residual = torch.zeros_like(flat.values)
    for gradient in gradients(flat, 6):
        proposal = plain.propose(gradient, RATE, on("E3M4"))
        for i in range(flat.values.numel()):
            asked = proposal.parameters[i] + residual[i]
            stored = coarse(asked) if i < flat.linear_end else asked
            twin.values[i], residual[i] = stored, asked - stored
        plain.commit(proposal, twin.values)
        take(rule, flat, gradient, coarse)
        assert torch.equal(flat.values, twin.values)
        assert torch.equal(rule.slots["residual"], residual)
    assert rule.slots["residual"].any()


def test_compensated_with_a_float32_residual_is_a_float32_master() -> None:
    """w + c is the master: equal up to the roundings of w + dw and of the sum, 2^-23 |w| a step, no decay."""
    flat, twin = network(), network()
    rule = build_rule(OptimizerConfig(rule="compensated", weight_decay=0.0), flat)
    master = build_rule(OptimizerConfig(rule="adamw", weight_decay=0.0), twin)
    flat.values[: flat.linear_end] = twin.values[: flat.linear_end] = coarse(flat.values[: flat.linear_end])
    steps = gradients(flat, 20)
    for gradient in steps:
        take(rule, flat, gradient, coarse)
        take(master, twin, gradient, as_is)
    bound = len(steps) * 2.0**-23 * float(twin.values.abs().max())
    apart = (flat.values.double() + rule.slots["residual"].double() - twin.values.double()).abs().max()
    assert apart <= bound
    assert (flat.values - twin.values).abs().max() > 100 * bound


@pytest.mark.parametrize("residual", ["bf16", "E4M3", "E7M0"])
def test_a_narrow_residual_lies_on_its_grid(residual: str) -> None:
    flat = network()
    rule = build_rule(OptimizerConfig(rule="compensated", residual=residual), flat)
    for gradient in gradients(flat, 3):
        take(rule, flat, gradient, coarse)
    kept = flat.linear_views(rule.slots["residual"])[0]
    assert kept.any()
    fmt, scale = parse_format(residual), 1.0
    if fmt.width <= 8:
        scale = 2.0 ** math.ceil(math.log2(float(kept.abs().max()) / fmt.max_representable_value))
    assert torch.equal(round_to_grid(kept, fmt, scale), kept)


@pytest.mark.parametrize("base", ["adamw", "sgd"])
def test_eco_is_the_papers_equations_in_float64(base: str) -> None:
    flat = network()
    rule = build_rule(OptimizerConfig(rule="eco", base=base, weight_decay=0.0), flat)
    beta1, beta2, eps = 0.9, 0.95, 1e-8
    w, m = flat.values.double(), torch.zeros(flat.values.shape, dtype=torch.float64)
    v = m.clone()
    for step, gradient in enumerate(gradients(flat, 4), 1):
        g = gradient.double()
        if base == "sgd":
            m = beta1 * m + g if step > 1 else g
            gain = torch.full_like(m, RATE)
        else:
            m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g * g
            gain = RATE / (1 - beta1**step) / ((v / (1 - beta2**step)).sqrt() + eps)
        asked = w - gain * m
        w = asked.clone()
        w[: flat.linear_end] = coarse(asked[: flat.linear_end])
        m = m + (1 - 1 / beta1) * (asked - w) / gain
        take(rule, flat, gradient, coarse)
        assert torch.equal(flat.values[: flat.linear_end].double(), w[: flat.linear_end])
        momentum = next(iter(rule.slots.values())).double()
        assert torch.allclose(momentum, m, rtol=1e-4, atol=1e-6 * float(m.abs().max()))


def test_eco_gives_the_error_back_in_the_long_run() -> None:
    """Without further gradients the momentum moves the weight by the lost part: geometric sum to beta^60."""
    flat = network()
    rule = build_rule(OptimizerConfig(rule="eco", base="sgd", weight_decay=0.0), flat)
    gradient = torch.zeros_like(flat.values)
    start = flat.values.clone()
    lost = start - coarse(start)
    proposal = rule.propose(gradient, RATE, on("E3M4"))
    rule.commit(proposal, coarse(start))
    flat.values.copy_(coarse(start))
    for _ in range(60):
        take(rule, flat, gradient, as_is)
    assert torch.allclose(flat.values, coarse(start) + lost, atol=0.01 * float(lost.abs().max()))


# --- the grid's own coordinates -------------------------------------------------------------------


@pytest.mark.parametrize("name", ["E0M7", "E1M6", "E3M4", "E4M3", "E5M2", "E7M0"])
def test_a_code_step_is_a_loop_over_floats(name: str) -> None:
    """w - eta u S(w) with the format's own gap, no more than ``max_codes`` of them."""
    fmt, scale = parse_format(name), 2.0**-9
    flat = network()
    rule = build_rule(OptimizerConfig(rule="code_step", geometric_rate=200.0, max_codes=1.5), flat)
    given = gradients(flat, 2)
    before = flat.values.clone()
    take(rule, flat, given[0], lambda x: before[: flat.linear_end])
    end = flat.linear_end
    flat.values[:end] = round_to_grid(flat.values[:end], fmt, scale)
    flat.values[0] = 0.0
    proposal = rule.propose(given[1], RATE, on(name, scale))
    codes = (-200.0 * RATE * adam_direction(given)).clamp(-1.5, 1.5)
    for i, (w, step) in enumerate(zip(flat.values[:end].tolist(), codes[:end].tolist(), strict=True)):
        gap = fmt.gap(w / scale) * scale
        assert float(proposal.parameters[i]) == pytest.approx(w + step * gap, rel=1e-6, abs=1e-5 * gap)
    assert (codes[:end].abs() == 1.5).any() and (codes[:end].abs() < 1.5).any()


@pytest.mark.parametrize("name", ["E3M4", "E7M0"])
def test_the_rounded_code_step_is_unbiased(name: str) -> None:
    """The share of the 2^24 random numbers that round up is the place itself, to 2^(M - 24) of a gap."""
    fmt = parse_format(name)
    flat = network()
    flat.values.fill_(1.0)
    rule = build_rule(OptimizerConfig(rule="code_step", geometric_rate=30.0), flat)
    aim = rule.propose(-torch.ones_like(flat.values), RATE, on(name)).parameters[:1]  # u = -1: .3 codes up

    def rounded(*bits: int) -> list[float]:
        values = aim.expand(len(bits)).contiguous()
        return round_to_grid(values, fmt, rounding="stochastic", bits=torch.tensor(bits)).tolist()

    low, high = rounded(0, 2**24 - 1)
    share = (float(aim) - low) / (high - low)
    assert low == 1.0 and abs(share - 0.3) <= 2.0 ** (fmt.mantissa_bits - 23)
    first_up = math.ceil((1 - share) * 2**24)
    assert rounded(first_up - 2, first_up + 1) == [low, high]


def adam_direction(gradients: list[Tensor]) -> Tensor:
    """m-hat / (sqrt(v-hat) + eps) in float64."""
    m = v = torch.zeros(gradients[0].shape, dtype=torch.float64)
    for g in (gradient.double() for gradient in gradients):
        m, v = 0.9 * m + 0.1 * g, 0.95 * v + 0.05 * g * g
    n = len(gradients)
    return m / (1 - 0.9**n) / ((v / (1 - 0.95**n)).sqrt() + 1e-8)


def test_madam_moves_the_logarithm_and_keeps_the_sign() -> None:
    flat = network()
    flat.values[0] = 0.0
    rule = build_rule(OptimizerConfig(rule="madam", geometric_rate=50.0, max_codes=0.4), flat)
    (gradient,) = gradients(flat, 1)
    before = flat.values.double()
    proposal = rule.propose(gradient, RATE, on("E5M2"))
    end = flat.linear_end
    g = gradient.double()
    octaves = -50.0 * RATE * torch.sign(before) * g / (g.abs() + 1e-8)
    expected = before[:end] * 2.0 ** octaves[:end].clamp(-0.4, 0.4)
    assert torch.allclose(proposal.parameters[:end].double(), expected, rtol=1e-6)
    assert proposal.parameters[0] == 0
    twin = network()
    twin.values[0] = 0.0
    plain = build_rule(OptimizerConfig(), twin).propose(gradient, RATE, on("E5M2"))
    assert torch.equal(proposal.parameters[end:], plain.parameters[end:])


def test_the_gradient_times_the_gap_is_a_loop_over_floats() -> None:
    """Under SGD's first step dw = -rate g S(w), S the format's own gap."""
    flat = network()
    rule = build_rule(OptimizerConfig(rule="stiff_gradient", base="sgd", weight_decay=0.0), flat)
    (gradient,) = gradients(flat, 1)
    fmt, scale = parse_format("E5M2"), 2.0**-3
    proposal = rule.propose(gradient, RATE, on("E5M2", scale))
    for i in range(flat.linear_end):
        w = float(flat.values[i])
        gap = fmt.gap(w / scale) * scale
        assert proposal.parameters[i] == flat.values[i] - torch.tensor(RATE) * (gradient[i] * gap)
    assert torch.equal(gradient, gradients(flat, 1)[0])


@pytest.mark.parametrize("factor", [2.0**-3, 2.0**3])
def test_adam_divides_a_constant_factor_out(factor: float) -> None:
    """The closed form of why ``stiff_gradient`` does nothing under Adam: u(S g) = u(g) but for eps / S."""
    plain, stiff = network(), network()
    rules = [build_rule(OptimizerConfig(weight_decay=0.0, eps=1e-30), flat) for flat in (plain, stiff)]
    for gradient in gradients(plain, 5):
        take(rules[0], plain, gradient, as_is)
        take(rules[1], stiff, gradient * factor, as_is)
    assert torch.allclose(plain.values, stiff.values, rtol=1e-6, atol=1e-9)
    sgd = [network(), network()]
    for flat, scale in zip(sgd, (1.0, factor), strict=True):
        rule = build_rule(OptimizerConfig(rule="sgd", weight_decay=0.0), flat)
        for gradient in gradients(flat, 5):
            take(rule, flat, gradient * scale, as_is)
    moved = [flat.values - network().values for flat in sgd]
    assert torch.allclose(moved[1], moved[0] * factor, rtol=1e-4, atol=1e-6)


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "hint"),
    [
        ({"rule": "compensate"}, "compensated"),
        ({"rule": "eco", "base": "lion"}, "optimizer.base"),
        ({"rule": "madam", "base": "sgd"}, "optimizer.base"),
        ({"rule": "torch.optim.a b"}, None),
    ],
)
def test_a_rule_that_is_none_is_refused_by_the_configuration(
    settings: dict[str, str], hint: str | None
) -> None:
    with pytest.raises(ConfigError) as caught:
        OptimizerConfig(**settings)  # type: ignore[arg-type]
    assert hint is None or hint in str(caught.value.hint)


@pytest.mark.parametrize(("name", "words"), [("LBFGS", "no LBFGS"), ("Adamm", "Adam"), ("Muon", "Muon")])
def test_an_optimizer_of_torch_that_cannot_step_here_is_refused(name: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        build_rule(OptimizerConfig(rule=f"torch.optim.{name}"), network())
    assert words in f"{caught.value.message} {caught.value.hint}"
