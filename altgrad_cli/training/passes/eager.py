"""One forward and backward pass, as a function that can be called again.

``run_pass`` changes nothing in the state: it draws from forks of the random streams and reports what the
amax histories should see. The float32 shadow is the same pass under another plan.

With ``runtime.compile`` the pass is one compiled graph (``training.passes.compiled``), except for passes with
a tap, the shadow and evaluations: these are eager, and their sums can differ from the graph's in the last
bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from altgrad_cli.rounding.statistics import Counters
from altgrad_cli.subjects.subject import Batch
from altgrad_cli.surgery.linear import Noise, Observer, OperandRounding, Scales, Tap
from altgrad_cli.surgery.precision_plan import PrecisionPlan, without_rounding
from altgrad_cli.surgery.share import Share
from altgrad_cli.training.measuring.reduce import whole_loss_and_counts
from altgrad_cli.training.passes.buffers import buffer_values, evaluating, put_buffers
from altgrad_cli.training.passes.compiled import CompiledPass, find_pass
from altgrad_cli.training.state import TrainState
from altgrad_cli.training.streams import fork


@dataclass(frozen=True, slots=True)
class PassResult:
    """What one pass gave; tensors stay on the device, nothing was waited for."""

    loss: Tensor
    """0-d, nats per token or label."""
    gradient: Tensor
    """Flat, aligned with ``FlatParameters.values``."""
    stats: Tensor | None
    """(layers, 3, len(STATS)) float64; NaN rows where nothing was rounded; None when not counted."""
    scales_used: Scales
    """Those s of Q(x) = s * round(x / s)."""
    rounded_weights: dict[int, Tensor]
    """Q(W) by layer number, where the weight operand was rounded."""
    streams_after: dict[str, torch.Generator]
    """Forks of the streams the pass drew from, where it left them."""
    buffers_after: Mapping[str, Tensor] = field(default_factory=dict)
    """The model's buffers as the pass left them; the model itself has those from before."""


def run_pass(
    state: TrainState,
    batch: Batch,
    *,
    plan: PrecisionPlan | None = None,
    scales: Scales | None = None,
    out: Tensor | None = None,
    count: Counters | None = "all",
    tap: Tap | None = None,
    observer: Observer | None = None,
) -> PassResult:
    """Loss and gradient of ``batch`` at the state's weights, every operand rounded by ``plan``.

    Args:
        plan: None takes the state's own.
        scales: None takes those of the state's amax histories.
        out: where the flat gradient goes; None makes a new tensor.
        count: what to count where rounding happens; a compiled pass counts everything.
        tap: sees every operand before it is rounded and may replace it.
        observer: sees every operand with its grid and scales.
    """
    config = state.config
    plan = plan or state.plan
    scales = scales if scales is not None else state.scales.current(plan, config)
    if config.runtime.compile and tap is None:
        compiled = find_pass(state, plan, scales, batch)
        if compiled is not None:
            if observer is not None:
                # The graph shows no operand to Python: the observer watches an eager pass whose results are
                # dropped. Its sums can differ from the graph's in the last bits; the training step stays
                # the same whether it is watched or not.
                _eager_pass(state, batch, plan, scales, None, count=None, tap=None, observer=observer)
            return _compiled_pass(state, batch, compiled, plan, scales, out)
    return _eager_pass(state, batch, plan, scales, out, count=count, tap=tap, observer=observer)


def _streams(state: TrainState, plan: PrecisionPlan) -> dict[str, torch.Generator]:
    """Forks of the streams that a pass draws from."""
    drawn = {"dropout": fork(state.streams["dropout"])}
    if plan.stochastic_operands:
        drawn["rounding_operands"] = fork(state.streams["rounding_operands"])
    return drawn


def uniform_noise(generator: torch.Generator, share: Share | None = None) -> Noise:
    """Noise from ``generator``, drawn where that lives, so that it depends on no device."""
    if share is not None:
        return lambda x: share.noise(x.shape, generator).to(x.device)
    return lambda x: torch.rand(x.shape, generator=generator, device=generator.device).to(x.device)


def _compiled_pass(
    state: TrainState,
    batch: Batch,
    compiled: CompiledPass,
    plan: PrecisionPlan,
    scales: Scales,
    out: Tensor | None,
) -> PassResult:
    drawn = _streams(state, plan)
    found = compiled.run(
        state.flat.values,
        batch,
        scales,
        rounding_stream=drawn.get("rounding_operands"),
        dropout_stream=drawn["dropout"],
    )
    return PassResult(
        loss=found.loss,
        gradient=found.gradient if out is None else out.copy_(found.gradient),
        stats=found.stats,
        scales_used={**scales, **found.scales_taken},
        rounded_weights=found.rounded_weights,
        streams_after=drawn,
    )


def _eager_pass(
    state: TrainState,
    batch: Batch,
    plan: PrecisionPlan,
    scales: Scales,
    out: Tensor | None,
    *,
    count: Counters | None,
    tap: Tap | None,
    observer: Observer | None,
) -> PassResult:
    config, ranks = state.config, state.ranks
    drawn = _streams(state, plan)
    rounding = OperandRounding(
        plan,
        config.precision.scaling,
        scales,
        overflow=config.precision.overflow,
        count=count,
        generator=drawn.get("rounding_operands"),
        share=ranks.share,
        device=state.device,
        tap=tap,
        observer=observer,
    )
    parameters = dict(state.model.named_parameters())
    ordered = [parameters[name] for name in state.flat.names]
    before = buffer_values(state.model)
    try:
        with state.slot.use(rounding, uniform_noise(drawn["dropout"], ranks.share)):
            loss, gradients = ranks.rows(batch).gradients(
                state.model, state.subject.loss, state.device, ordered, shares=ranks.count
            )
        after = ranks.first(buffer_values(state.model)) if before else {}
    finally:
        put_buffers(state.model, before)
    flat = torch.empty_like(state.flat.values) if out is None else out
    torch.cat([gradient.reshape(-1) for gradient in gradients], out=flat)
    whole, stats = whole_loss_and_counts(ranks, loss.detach(), rounding.stats)
    return PassResult(
        loss=whole,
        gradient=ranks.total(flat),
        stats=stats,
        scales_used=rounding.scales_used,
        rounded_weights=rounding.rounded_weights,
        streams_after=drawn,
        buffers_after=after,
    )


def shadow_pass(state: TrainState, batch: Batch, out: Tensor | None = None) -> PassResult:
    """The float32 shadow: same batch, same stored weights, same random draws, every rounding bypassed.

    Always eager: compiled it would save 7 % of a pass, and cost a second compilation.
    """
    plan = without_rounding(state.plan)
    scales = state.scales.current(plan, state.config)
    return _eager_pass(state, batch, plan, scales, out, count=None, tap=None, observer=None)


def deployed_rounding(state: TrainState, plan: PrecisionPlan) -> OperandRounding:
    """How a deployed model rounds: operands to nearest, so that its loss is a number and not a draw."""
    precision, scales = state.config.precision, state.scales.current(plan, state.config)
    return OperandRounding(
        plan,
        precision.scaling,
        scales,
        overflow=precision.overflow,
        device=state.device,
        deterministic=True,
    )


@contextmanager
def deployed(state: TrainState, plan: PrecisionPlan) -> Iterator[None]:
    """Inside the block the model is as deployed: rounding so, in evaluation mode, without dropout."""
    with state.slot.use(deployed_rounding(state, plan)), evaluating(state.model):
        yield


@torch.no_grad()
def evaluation_loss(state: TrainState, batches: list[Batch], plan: PrecisionPlan | None = None) -> Tensor:
    """Mean validation loss (0-d) of the deployed model, or of the model under ``plan``.

    Reads the amax histories and writes none; draws from no stream.
    """
    ranks = state.ranks
    with deployed(state, plan or state.plan):
        # Every rank takes whole batches, and the sum is in the batches' order: the same bits for any number.
        mine = [batches[min(number, len(batches) - 1)] for number in ranks.turns(len(batches))]
        losses = torch.stack([state.loss(batch).double() for batch in mine])
    in_order = torch.stack(ranks.gathered(losses), dim=1).flatten()[: len(batches)]
    total = torch.zeros((), dtype=torch.float64, device=state.device)
    for loss in in_order.unbind():
        total += loss
    return total / len(batches)


@torch.no_grad()
def evaluation_scores(state: TrainState, batches: Sequence[Batch]) -> Mapping[str, float]:
    """What the subject says of the deployed model beside the loss; {} where it says nothing."""
    if state.subject.scores is None:
        return {}
    with deployed(state, state.plan):
        outputs = [state.model(batch.x.to(state.device)) for batch in batches]
    return state.subject.scores(batches, outputs)
