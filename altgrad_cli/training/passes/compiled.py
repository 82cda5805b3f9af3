"""Forward and backward pass of the whole network as one compiled graph, its roundings fused in.

The eager pass is recorded once, autograd and all, and compiled. Formats and shapes are constants of the
graph; weights, batch, scales, keys of stochastic rounding and dropout noise are its inputs, so that nothing
is built again while a run goes on. A rounding in the graph has the bits of the eager one for the same
operand. The sums of the network (LayerNorm, softmax, loss) are taken in another order, so an operand itself
can differ in its last bits, and what is rounded near a tie can then fall on the other side.

Everything is counted, whether somebody asks or not: a graph without the counts would be another one, with
sums of its own, and measuring must not change training.
"""

from __future__ import annotations

import logging
import math
import os
import shutil
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from altgrad_cli.config.precision import OPERAND_ROLES
from altgrad_cli.rounding.constants import Carrier, is_power_of_two
from altgrad_cli.rounding.grid import Grid
from altgrad_cli.rounding.statistics import STATS
from altgrad_cli.rounding.stochastic import draw_key
from altgrad_cli.rounding.traced import Slot, finish_rows, traced_plan
from altgrad_cli.subjects.subject import Batch
from altgrad_cli.surgery.linear import Scales, operand_grids
from altgrad_cli.surgery.precision_plan import PrecisionPlan
from altgrad_cli.training.passes.recording import Layout, PassKey, Recording
from altgrad_cli.training.state import TrainState

log = logging.getLogger(__name__)

_LARGEST = torch.finfo(torch.float32).max


@dataclass(frozen=True, slots=True)
class PassOutput:
    """What one call of the graph gave."""

    loss: Tensor
    gradient: Tensor
    """Flat, aligned with ``FlatParameters.values``."""
    stats: Tensor
    rounded_weights: dict[int, Tensor]
    scales_taken: dict[tuple[int, int], Tensor]
    """Scales that the graph took from the tensors themselves."""


class CompiledPass:
    """The graph of one ``PassKey``, compiled."""

    def __init__(self, key: PassKey) -> None:
        self._key = key
        recording = Recording(key)
        self._call = recording.compile()
        self._order = recording.order
        self._weights, self._scales = recording.weights, recording.scales
        self._noise = recording.noise
        places = [layer * len(OPERAND_ROLES) + role for layer, role in self._order]
        self._places = torch.tensor(places, device=key.device)
        self._sizes = torch.tensor(recording.sizes, dtype=torch.float64, device=key.device)
        self._layers = recording.layers
        self._ones = torch.ones(recording.most_lines, device=key.device)

    @torch.no_grad()
    def run(
        self,
        values: Tensor,
        batch: Batch,
        scales: Scales,
        *,
        rounding_stream: torch.Generator | None,
        dropout_stream: torch.Generator,
    ) -> PassOutput:
        """Loss and gradient at the flat weights ``values``; draws what the eager pass would draw."""
        key = self._key
        outputs = list(
            self._call(
                values,
                batch.x.to(key.device).contiguous(),
                batch.y.to(key.device).contiguous(),
                _scale_tensor(scales, self._layers, power_of_two=key.power_of_two, device=key.device),
                self._draw_keys(rounding_stream),
                self._ones,
                *self._draw_noise(dropout_stream),
            )
        )
        loss, gradient = outputs[0], outputs[1]
        shape = (self._layers * len(OPERAND_ROLES), len(STATS))
        stats = torch.full(shape, math.nan, dtype=torch.float64, device=key.device)
        if self._order:
            stats[self._places] = finish_rows(outputs[2], outputs[3], self._sizes)
        extra = outputs[4 if self._order else 2 :]
        split = len(self._weights)
        return PassOutput(
            loss=loss,
            gradient=gradient,
            stats=stats.view(self._layers, len(OPERAND_ROLES), len(STATS)),
            rounded_weights=dict(zip(self._weights, extra[:split], strict=True)),
            scales_taken=dict(zip(self._scales, extra[split:], strict=True)),
        )

    def _draw_keys(self, stream: torch.Generator | None) -> Tensor:
        drawn = [draw_key(stream) for _ in self._order] if self._key.stochastic else []
        return torch.tensor(drawn, dtype=torch.int32).view(-1, 2).to(self._key.device)

    def _draw_noise(self, stream: torch.Generator) -> list[Tensor]:
        # One draw a layer in the order of execution, as the eager pass makes them.
        shape_of = {layer: shape for shape, layers in self._noise.items() for layer in layers}
        drawn = [torch.rand(shape_of[layer], generator=stream) for layer in sorted(shape_of)]
        stacked = (torch.stack([drawn[layer] for layer in layers]) for layers in self._noise.values())
        return [noise.to(self._key.device) for noise in stacked]


def _scale_tensor(scales: Scales, layers: int, *, power_of_two: bool, device: torch.device) -> Tensor:
    """float32 (layers, 3, 2), as ``round_traced`` takes it; 1 where the graph takes the scale itself."""
    table = torch.ones(layers, len(OPERAND_ROLES), dtype=torch.float64)
    for place, scale in scales.items():
        table[place] = scale
    return torch.stack((1 / table if power_of_two else table, table), dim=-1).float().to(device)


_COMPILER_ERRORS = (RuntimeError, OSError, ImportError, AttributeError, TypeError, ValueError, AssertionError)
"""What torch's compilers raise, and what calling them does where a version of torch has moved them."""


@lru_cache(maxsize=16)
def _compiled(key: PassKey) -> CompiledPass | None:
    # A warning because it reaches the user, who would otherwise see a run that stands still.
    log.warning("compiling the pass: up to a minute, or seconds if torch has kept it from an earlier run")
    try:
        return CompiledPass(key)
    except _COMPILER_ERRORS as error:
        reason = (str(error).splitlines() or [""])[0]
        log.warning("the pass is not compiled (%s: %s); it runs eagerly", type(error).__name__, reason)
        return None


@lru_cache(maxsize=1)
def missing_compiler() -> str | None:
    """Why nothing can be compiled for the CPU of this machine, or None. Logged once."""
    names = (os.environ.get("CXX"), "g++", "clang++", "c++", "cl")
    if any(shutil.which(name) for name in names if name):
        return None
    reason = "no C++ compiler was found"
    log.warning("%s: the pass is not compiled; it runs eagerly", reason)
    return reason


def find_pass(state: TrainState, plan: PrecisionPlan, scales: Scales, batch: Batch) -> CompiledPass | None:
    """The compiled form of a pass; None where it has to be the eager one.

    That is: without a compiler; for a network with buffers, or of a builder that cannot be told from others;
    while a delayed scale is not known yet; for formats that name blocks or scales; with a Hadamard matrix;
    for operands of which some are rounded stochastically; for formats wider than float32; and for scales
    with which the graph would leave float32's range. All of it follows from the state, so that a resumed or
    repeated run takes the same way again.
    """
    config = state.config
    if not state.ranks.alone:
        _say_once("the run has several ranks")
        return None
    drawn = [role in plan.stochastic for role in OPERAND_ROLES]
    if plan.hadamard is not None or any(drawn) != all(drawn):
        return None
    if state.device.type == "cpu" and missing_compiler():
        return None
    reason = _not_recordable(state)
    if reason is not None:
        _say_once(reason)
        return None
    scaling = config.precision.scaling
    slots = []
    for index, layer in enumerate(plan.layers):
        for number, grid in enumerate(operand_grids(layer, scaling)):
            if grid is None:
                continue
            scale = scales.get((index, number))
            if grid.element.block.name or (scale is None and grid.recipe != "amax"):
                return None
            if scale is not None and not _scale_fits(float(scale), grid):
                return None
            if traced_plan(grid.element, config.precision.overflow).carrier is Carrier.FLOAT64:
                return None
            slots.append(Slot(index, number, grid.element, scale is None))
    return _compiled(
        PassKey(
            build=state.subject.build,
            kind=state.subject.kind,
            loss=state.subject.loss,
            slots=tuple(slots),
            power_of_two=scaling.power_of_two,
            margin=scaling.margin,
            overflow=config.precision.overflow,
            stochastic=plan.stochastic_operands,
            x=Layout(tuple(batch.x.shape), batch.x.dtype),
            y=Layout(tuple(batch.y.shape), batch.y.dtype),
            device=state.device,
            threads=torch.get_num_threads(),
        )
    )


def _not_recordable(state: TrainState) -> str | None:
    """Why no graph can stand for this network's pass, or None."""
    if next(state.model.buffers(), None) is not None:
        return "the network has buffers, which a graph would not keep"
    subject = state.subject
    try:
        hash((subject.build, subject.kind, subject.loss))
    except TypeError as error:
        return f"the subject cannot be told from others ({error})"
    return None


@lru_cache(maxsize=16)
def _say_once(reason: str) -> None:
    log.warning("%s: the pass is not compiled; it runs eagerly", reason)


def _scale_fits(scale: float, grid: Grid) -> bool:
    # A uniform grid's step, at least 2^-16, joins the scale; and the maximum must not round to inf.
    lowest = 2.0**-80 if grid.element.is_uniform else 2.0**-100
    if not lowest <= scale <= 2.0**80 or scale * grid.element.max_representable_value > _LARGEST:
        return False
    return not grid.power_of_two or is_power_of_two(scale)
