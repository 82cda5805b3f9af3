"""The GPT against nanoGPT written down once more from torch's own modules."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from altgrad_cli.config.model import ModelConfig
from altgrad_cli.config.precision import PrecisionConfig, ScalingConfig
from altgrad_cli.errors import ConfigError
from altgrad_cli.subjects.gpt.layer_names import layer_kinds
from altgrad_cli.subjects.gpt.model import GPT, cross_entropy, initialize
from altgrad_cli.surgery.linear import OperandRounding, PassSlot
from altgrad_cli.surgery.precision_plan import plan_precision
from altgrad_cli.surgery.swapping import number_layers, prepare_layers

SHAPE = ModelConfig(n_layer=2, n_head=4, n_embd=32, block_size=16)
VOCABULARY = 4096


class Reference(nn.Module):
    """nanoGPT without biases and dropout; attention spelled out, softmax over a masked score matrix."""

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        super().__init__()
        width = config.n_embd
        self.heads = config.n_head
        self.wte, self.wpe = nn.Embedding(vocab_size, width), nn.Embedding(config.block_size, width)
        self.blocks = nn.ModuleList()
        for _ in range(config.n_layer):
            block = nn.ModuleDict(
                {
                    "ln_1": nn.LayerNorm(width, bias=False),
                    "attn": nn.ModuleDict(
                        {
                            "c_attn": nn.Linear(width, 3 * width, bias=False),
                            "c_proj": nn.Linear(width, width, bias=False),
                        }
                    ),
                    "ln_2": nn.LayerNorm(width, bias=False),
                    "mlp": nn.ModuleDict(
                        {
                            "c_fc": nn.Linear(width, 4 * width, bias=False),
                            "c_proj": nn.Linear(4 * width, width, bias=False),
                        }
                    ),
                }
            )
            self.blocks.append(block)
        self.ln_f = nn.LayerNorm(width, bias=False)
        self.lm_head = nn.Linear(width, vocab_size, bias=False)
        self.lm_head.weight = self.wte.weight

    def forward(self, tokens: Tensor) -> Tensor:
        length = tokens.shape[1]
        x = self.wte(tokens) + self.wpe(torch.arange(length))
        hidden = torch.ones(length, length, dtype=torch.bool).triu(1)
        for block in self.blocks:
            q, k, v = block["attn"]["c_attn"](block["ln_1"](x)).chunk(3, dim=-1)
            q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))
            scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
            mixed = scores.masked_fill(hidden, -torch.inf).softmax(-1) @ v
            x = x + block["attn"]["c_proj"](mixed.transpose(1, 2).flatten(-2))
            x = x + block["mlp"]["c_proj"](F.gelu(block["mlp"]["c_fc"](block["ln_2"](x))))
        return self.lm_head(self.ln_f(x))


def model_for(
    config: ModelConfig = SHAPE, vocab_size: int = VOCABULARY, seed: int = 1
) -> tuple[GPT, PassSlot]:
    slot = PassSlot()
    model = GPT(config, vocab_size)
    initialize(model, torch.Generator().manual_seed(seed))
    prepare_layers(model, slot)
    return model, slot


def tokens_for(vocab_size: int = VOCABULARY, length: int = 16) -> Tensor:
    return torch.randint(vocab_size, (3, length), generator=torch.Generator().manual_seed(5))


def bypass(model: GPT) -> OperandRounding:
    names = [name for name, _ in number_layers(model)]
    plan = plan_precision(PrecisionConfig(regime="fp32"), "E5M2", layer_kinds(names))
    return OperandRounding(plan, ScalingConfig(), {})


@pytest.mark.parametrize("length", [16, 7, 1])
def test_logits_and_gradients_are_nanogpts(length: int) -> None:
    model, slot = model_for()
    reference = Reference(SHAPE, VOCABULARY)
    reference.load_state_dict(model.state_dict())
    with torch.no_grad():  # larger weights than at the start, so that attention is not uniform
        for one, other in zip(model.parameters(), reference.parameters(), strict=True):
            one.mul_(4) if one.dim() > 1 else one.add_(0.1)
            other.copy_(one)
    tokens, targets = tokens_for(length=length), tokens_for(length=length).roll(1, 0)
    with slot.use(bypass(model)):
        logits = model(tokens)
        loss = cross_entropy(logits, targets)
        gradients = torch.autograd.grad(loss, list(model.parameters()))
    expected = reference(tokens)
    expected_loss = F.cross_entropy(expected.view(-1, VOCABULARY), targets.view(-1))
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(loss, expected_loss, rtol=1e-6, atol=1e-6)
    for got, want in zip(
        gradients, torch.autograd.grad(expected_loss, list(reference.parameters())), strict=True
    ):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-6)


def test_attention_never_looks_ahead() -> None:
    model, _ = model_for()
    tokens = tokens_for()
    changed = tokens.clone()
    changed[:, 10:] = (changed[:, 10:] + 1) % VOCABULARY
    before, after = model(tokens), model(changed)
    assert torch.equal(before[:, :10], after[:, :10])
    assert not torch.equal(before[:, 10:], after[:, 10:])


def test_initial_weights_have_nanogpts_statistics() -> None:
    config = ModelConfig(n_layer=6, n_head=4, n_embd=128, block_size=64)
    model, _ = model_for(config, 256)
    for name, value in model.named_parameters():
        parameter = value.detach()
        if parameter.dim() < 2:
            assert torch.equal(parameter, torch.ones_like(parameter)), name
            continue
        std = 0.02 / math.sqrt(2 * 6) if name.endswith("c_proj.weight") else 0.02
        n = parameter.numel()
        assert abs(float(parameter.mean())) < 5 * std / math.sqrt(n), name
        assert float(parameter.std()) == pytest.approx(std, rel=5 / math.sqrt(2 * n)), name


def test_the_loss_of_a_fresh_model_is_that_of_guessing() -> None:
    model, _ = model_for()
    tokens = tokens_for()
    assert cross_entropy(model(tokens), tokens.roll(-1, 1)).item() == pytest.approx(
        math.log(VOCABULARY), rel=0.01
    )


def test_the_head_is_the_token_embedding() -> None:
    model, _ = model_for()
    assert model.lm_head.weight is model.wte.weight
    names = [name for name, _ in model.named_parameters()]
    assert "wte.weight" in names
    assert "lm_head.weight" not in names
    assert not [name for name in names if name.endswith("bias")]


def test_layers_run_in_the_order_of_their_numbers() -> None:
    model, slot = model_for()
    seen: list[int] = []
    rounding = bypass(model)
    rounding._tap = lambda layer, role, x: (seen.append(layer), x)[1] if role == "activations" else x
    with slot.use(rounding):
        model(tokens_for())
    assert seen == list(range(9))
    assert [name for name, _ in number_layers(model)][-1] == "lm_head"


def test_equal_seeds_give_equal_models() -> None:
    one, other, third = (model_for(seed=seed)[0].wte.weight for seed in (1, 1, 2))
    assert torch.equal(one, other)
    assert not torch.equal(one, third)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"n_layer": 0}, "n_layer"),
        ({"n_head": 3}, "multiple"),
        ({"dropout": 1.0}, "dropout"),
        ({"dropout": -0.1}, "dropout"),
        ({"block_size": 0}, "block_size"),
    ],
)
def test_impossible_shapes_are_refused(changes: dict[str, float], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        ModelConfig(**changes)  # type: ignore[arg-type]
