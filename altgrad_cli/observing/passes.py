"""The forward and backward passes of one step, seen by hooks.

A pass begins where the model is called with gradients on. Each has a rounding of its own, at the scales that
were decided before the step, so that a step may have several; what they counted is put together as the shares
of a batch are. A call without gradients is an evaluation: it rounds as a deployed model does and counts
nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from altgrad_cli.surgery.coverage import Coverage, CoverageCount
from altgrad_cli.surgery.linear import OperandRounding, Scales, Tap
from altgrad_cli.training.after_step import Run
from altgrad_cli.training.in_use.calls import RecordedCall, RecordedCalls, output_tensors, tensors_in
from altgrad_cli.training.measuring.codes import CodeCensus
from altgrad_cli.training.measuring.reduce import whole_batch, whole_loss_and_counts
from altgrad_cli.training.parallel.ranks import Ranks
from altgrad_cli.training.passes.buffers import buffer_values
from altgrad_cli.training.passes.eager import PassResult, deployed_rounding
from altgrad_cli.training.state import TrainState
from altgrad_cli.training.streams import fork


@dataclass(slots=True)
class LivePass:
    """One call of the model in training."""

    rounding: OperandRounding
    stream: Tensor
    args: tuple[object, ...]
    kwargs: Mapping[str, object]
    gradients: list[Tensor | None] = field(default_factory=list)
    came_back: bool = False

    def outputs(self, output: object) -> None:
        """Listen for the gradient of each tensor of the model's output."""
        for number, tensor in enumerate(output_tensors(output)):
            self.gradients.append(None)
            if tensor.requires_grad:
                tensor.register_hook(self._hook(number))

    def _hook(self, number: int) -> Callable[[Tensor], None]:
        def hook(gradient: Tensor) -> None:
            before = self.gradients[number]
            self.gradients[number] = gradient.detach() if before is None else before + gradient
            self.came_back = True

        return hook


@dataclass(slots=True)
class StepSeen:
    """What is known of the step under way."""

    started: float
    scales: Scales
    streams_before: dict[str, Tensor]
    drawn: dict[str, torch.Generator]
    buffers: dict[str, Tensor]
    stream: Tensor
    census: CodeCensus | None
    tap: Tap | None
    passes: list[LivePass] = field(default_factory=list)
    loss: Tensor | None = None


class LivePasses:
    """Listens to one model; ``take`` hands over what a step had."""

    def __init__(self, run: Run, model: nn.Module, turned: frozenset[str], ranks: Ranks) -> None:
        self._run, self._turned, self._ranks = run, turned, ranks
        self.step: StepSeen | None = None
        self.aside = False
        """The model is being run by altgrad itself."""
        self._faults = ExitStack()
        self._handles = [
            model.register_forward_pre_hook(torch.compiler.disable(self._before), with_kwargs=True),
            model.register_forward_hook(torch.compiler.disable(self._counted), always_call=True),
            model.register_forward_hook(torch.compiler.disable(self._after)),
        ]
        self.coverage: Coverage | None = None
        """Of the first pass; None before its end."""
        self._count: CoverageCount | None = None
        self._roots = _seen_roots(self._root)
        self._roots.__enter__()

    def close(self) -> None:
        """Hear no more."""
        for handle in self._handles:
            handle.remove()
        self._roots.__exit__(None, None, None)
        self._faults.close()
        self._run.state.slot.rounding = None

    @contextmanager
    def muted(self) -> Iterator[None]:
        """Inside the block the model's calls are altgrad's own."""
        before, self.aside = self.aside, True
        try:
            yield
        finally:
            self.aside = before

    def _state(self) -> TrainState:
        return self._run.state

    def _begin(self) -> StepSeen:
        run, state = self._run, self._state()
        number = state.step + 1
        run.faults.before_step(state, number)
        drawn = {}
        if state.plan.stochastic_operands:
            drawn["rounding_operands"] = fork(state.streams["rounding_operands"])
        batch = RecordedCalls(x=torch.zeros(()), y=torch.zeros(()))
        tap = self._faults.enter_context(run.faults.active(state, batch, number))
        return StepSeen(
            started=time.perf_counter(),
            scales=state.scales.current(state.plan, state.config),
            streams_before=state.streams.state_dict(),
            drawn=drawn,
            buffers=buffer_values(state.model),
            stream=torch.get_rng_state(),
            census=run.census(number),
            tap=tap,
        )

    def _before(self, module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        if self.aside:
            return
        state = self._state()
        if not torch.is_grad_enabled():
            state.slot.rounding = deployed_rounding(state, state.plan)
            return
        step = self.step
        if step is not None and self._abandoned(step):
            self.discard()
            step = None
        if step is None:
            self.step = step = self._begin()
        config = state.config.precision
        rounding = OperandRounding(
            state.plan,
            config.scaling,
            step.scales,
            overflow=config.overflow,
            count=self._run.count,
            generator=step.drawn.get("rounding_operands"),
            device=state.device,
            tap=step.tap,
            observer=step.census,
        )
        step.passes.append(LivePass(rounding, torch.get_rng_state(), args, kwargs))
        state.slot.rounding = rounding
        if self.coverage is None and self._count is None:
            self._count = CoverageCount(state.model, dict(state.layers))
            self._count.begin()

    def _counted(self, module: nn.Module, args: Any, output: object) -> None:
        """The end of the first pass; one that broke off, whose output is None, is not counted."""
        if self._count is not None and not self.aside:
            found, self._count = self._count.end(), None
            self.coverage = None if output is None else found

    def _after(self, module: nn.Module, args: Any, output: object) -> None:
        if self.aside:
            return
        passes = self.step.passes if self.step is not None else []
        if torch.is_grad_enabled():
            passes[-1].outputs(output)
        else:
            self._state().slot.rounding = passes[-1].rounding if passes else None

    def _abandoned(self, step: StepSeen) -> bool:
        """Whether the loop has thrown away what came back so far, as after an exception."""
        live = self._state().model.parameters()
        return any(each.came_back for each in step.passes) and all(p.grad is None for p in live)

    def _root(self, tensor: Tensor) -> None:
        if not self.aside and self.step is not None and tensor.numel() == 1:
            value = tensor.detach().float().reshape(())
            self.step.loss = value if self.step.loss is None else self.step.loss + value

    def discard(self) -> None:
        """The step under way is over, whatever came of it."""
        self._faults.close()
        self.step = None
        self._state().slot.rounding = None

    def take(self) -> StepSeen | None:
        """The step whose passes have come back; None where there was none. Faults strike no more."""
        step = self.step
        self.discard()
        if step is not None:
            step.passes = [each for each in step.passes if each.came_back] or step.passes
        return step

    def result(self, step: StepSeen, gradient: Tensor) -> PassResult:
        """The step's passes as one, with the gradient that the optimizer is about to be given."""
        roundings = [each.rounding for each in step.passes]
        counted = whole_batch([each.stats for each in roundings if each.stats is not None])
        mine = torch.zeros((), device=gradient.device) if step.loss is None else step.loss
        # The gradient is the mean over all ranks already; what is decided by the rest must be decided alike.
        loss, stats = whole_loss_and_counts(self._ranks, mine / self._ranks.count, counted)
        return PassResult(
            loss=loss,
            gradient=gradient,
            stats=stats,
            scales_used={place: s for each in reversed(roundings) for place, s in each.scales_used.items()},
            rounded_weights=roundings[0].rounded_weights,
            streams_after=step.drawn,
        )

    def batch(self, step: StepSeen) -> RecordedCalls:
        """The step's calls as something that can be run again."""
        calls = tuple(
            RecordedCall(list(each.args), dict(each.kwargs), each.stream, each.gradients)
            for each in step.passes
        )
        given = next((t for call in calls for t in tensors_in([call.args, call.kwargs])), torch.zeros(0))
        return RecordedCalls(x=given, y=torch.zeros(0), calls=calls, turned=self._turned)


@contextmanager
def _seen_roots(see: Callable[[Tensor], None]) -> Iterator[None]:
    """Inside the block ``see`` is told of every tensor that a backward pass starts at."""
    original = torch.autograd.backward

    def backward(tensors: Any, *args: Any, **kwargs: Any) -> None:
        for tensor in [tensors] if isinstance(tensors, Tensor) else list(tensors):
            see(tensor)
        original(tensors, *args, **kwargs)

    torch.autograd.backward = backward  # type: ignore[assignment]
    try:
        yield
    finally:
        if torch.autograd.backward is backward:
            torch.autograd.backward = original
