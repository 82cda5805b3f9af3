"""What takes a training step: plain PyTorch in several ways, the engine, and QPyTorch.

Each is the same GPT from the same initial bits, on the same batches, with the gradient of every parameter,
AdamW with the same settings and schedule (decay on matrices only), and one read of the loss: a test sees that
plain PyTorch and the engine without rounding come to the same losses. The engine's steps contain no
evaluation (its one at step 0 is outside what is timed) and write no checkpoint.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from altgrad_cli.config.loading import load_config
from altgrad_cli.config.run import TrainConfig
from altgrad_cli.subjects.corpus.batches import draw_batch
from altgrad_cli.subjects.corpus.tokens import load_corpus
from altgrad_cli.subjects.gpt.model import GPT, cross_entropy, initialize
from altgrad_cli.surgery.swapping import swap_layers
from altgrad_cli.training.engine import train
from altgrad_cli.training.events import Event, StepCompleted
from altgrad_cli.training.streams import Streams
from altgrad_cli.updates.schedule import learning_rate_at

Step = Callable[[], float]
"""Takes one training step and returns its loss."""
Build = Callable[[], Step]
"""Makes the network and its state; what it returns takes one training step a call."""

Size = tuple[str, ...]
DEFAULT_SIZE: Size = ()
LARGE: Size = ("model.n_layer=6", "model.n_head=6", "model.n_embd=384", "model.block_size=256")
TINY: Size = ("model.n_layer=2", "model.n_head=2", "model.n_embd=32", "model.block_size=32")

_NO_EXTRAS = ("runtime.evaluation_interval=1000000", "runtime.evaluation_batches=1", "max_steps=1000000")
_OFF = "monitors.enabled=false"
_INTERVAL = ("log_stiffness=true", "log_grid_alignment=true", "log_ulp=true")

PLAIN = "plain PyTorch"
FP32 = "engine, fp32, nothing measured"
STANDARD = "standard (W, A, G), nothing measured"
UNIFORM = "uniform (A, G, M), nothing measured"
MONITORED = "uniform, every measurement but the shadow"
EVERYTHING = "uniform, everything"
ENGINE: dict[str, tuple[str, ...]] = {
    FP32: ("precision.regime=fp32", _OFF),
    STANDARD: ("precision.regime=standard", _OFF),
    UNIFORM: ("precision.regime=uniform", _OFF),
    MONITORED: ("precision.regime=uniform", "use_shadow=false", *_INTERVAL),
    EVERYTHING: ("precision.regime=uniform", *_INTERVAL),
}
"""Name -> overrides of the base config."""

AdamWay = Literal["for-loop", "foreach", "fused"]


def configure(size: Size, threads: int, *own: str) -> TrainConfig:
    """The base config at ``size``, on the CPU, with nothing beside the steps."""
    return load_config("base", [*_NO_EXTRAS, "runtime.device=cpu", f"runtime.threads={threads}", *size, *own])


def engine_step(config: TrainConfig) -> Step:
    """One step of the engine a call; its first call also builds and evaluates once."""
    events: Iterator[Event] = train(config)

    def step() -> float:
        while not isinstance(event := next(events), StepCompleted):
            pass
        loss = event.metrics["loss"]
        assert loss is not None
        return loss

    return step


def plain_step(
    config: TrainConfig,
    *,
    linear: Callable[[nn.Linear], nn.Module] | None = None,
    adamw: AdamWay = "for-loop",
    autocast: bool = False,
    compiled: bool = False,
) -> Step:
    """The same network and optimizer without the engine.

    Args:
        linear: what stands for each linear layer, if it is not torch's own; it shares its weight.
        adamw: torch's way of updating; the for-loop is what ``torch.optim.AdamW`` takes on a CPU by itself.
        autocast: forward and loss under bfloat16 autocast.
        compiled: forward and backward by ``torch.compile``.
    """
    torch.set_num_threads(config.runtime.threads)
    corpus = load_corpus(config.data, config.model.block_size)
    model = GPT(config.model, corpus.vocab_size)
    streams = Streams(config.seed)
    initialize(model, streams["init"])
    if linear is not None:
        swap_layers(model, nn.Linear, linear)
    settings = config.optimizer
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    gains = [p for p in model.parameters() if p.dim() < 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": gains, "weight_decay": 0.0}],
        lr=config.learning_rate,
        betas=settings.betas,
        eps=settings.eps,
        foreach=adamw == "foreach",
        fused=adamw == "fused",
    )
    narrow: Callable[[], Any] = partial(torch.autocast, "cpu", torch.bfloat16) if autocast else nullcontext
    forward: Callable[[Tensor], Tensor] = torch.compile(model) if compiled else model

    numbers = itertools.count(1)

    def step() -> float:
        rate = learning_rate_at(config, next(numbers))
        for group in optimizer.param_groups:
            group["lr"] = rate
        batch = draw_batch(corpus.train, config.batch_size, config.model.block_size, streams["data"])
        optimizer.zero_grad(set_to_none=True)
        with narrow():
            loss = cross_entropy(forward(batch.x), batch.y)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def qtorch_linear(linear: nn.Linear, *, head: int) -> nn.Module:
    """``linear``, whose W, A and G QPyTorch rounds to nearest, unscaled: E5M2, the head in BF16."""
    from qtorch import FloatingPoint
    from qtorch.quant import Quantizer

    grid = FloatingPoint(exp=8, man=7) if linear.out_features == head else FloatingPoint(exp=5, man=2)
    nearest = {"forward_rounding": "nearest", "backward_rounding": "nearest"}

    class Rounded(nn.Linear):
        def __init__(self) -> None:
            super().__init__(linear.in_features, linear.out_features, bias=False)
            self.weight = linear.weight
            self.operand = Quantizer(forward_number=grid, **nearest)
            self.gradient = Quantizer(backward_number=grid, **nearest)

        def forward(self, x: Tensor) -> Tensor:
            product = nn.functional.linear(self.operand(x), self.operand(self.weight))
            rounded: Tensor = self.gradient(product)
            return rounded

    return Rounded()


def _qtorch_step(config: TrainConfig) -> Step:
    vocabulary = load_corpus(config.data, config.model.block_size).vocab_size
    return plain_step(config, linear=partial(qtorch_linear, head=vocabulary))


def builders(size: Size, threads: int, *, compiled: bool) -> dict[str, Build]:
    """Everybody who takes steps at ``size``; nothing is built before it is called."""
    config = configure(size, threads)
    found: dict[str, Build] = {
        PLAIN: partial(plain_step, config),
        f"{PLAIN}, foreach AdamW": partial(plain_step, config, adamw="foreach"),
        f"{PLAIN}, fused AdamW": partial(plain_step, config, adamw="fused"),
        f"{PLAIN}, bf16 autocast": partial(plain_step, config, autocast=True),
        "QPyTorch (W, A, G), unscaled": partial(_qtorch_step, config),
    }
    for name, own in ENGINE.items():
        found[name] = partial(engine_step, configure(size, threads, *own))
    if compiled:
        found[f"{PLAIN}, compiled"] = partial(plain_step, config, compiled=True)
        for name in (STANDARD, UNIFORM, MONITORED, EVERYTHING):
            own = (*ENGINE[name], "runtime.compile=true")
            found[f"compiled: {name}"] = partial(engine_step, configure(size, threads, *own))
    return found
