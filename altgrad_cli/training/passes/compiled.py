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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import torch
from torch import Tensor

from altgrad_cli.config.model import ModelConfig
from altgrad_cli.config.precision import HEAD, OPERAND_ROLES, Overflow, ScalingConfig
from altgrad_cli.formats import FP8Format
from altgrad_cli.rounding.compiled import compile_failure
from altgrad_cli.rounding.constants import Carrier, is_power_of_two
from altgrad_cli.rounding.statistics import STATS
from altgrad_cli.rounding.stochastic import draw_key
from altgrad_cli.rounding.traced import Slot, TracedRounding, traced_plan
from altgrad_cli.rounding.traced_counts import finish_rows, line_count
from altgrad_cli.subjects.corpus.batches import Batch
from altgrad_cli.subjects.gpt.model import GPT, cross_entropy
from altgrad_cli.surgery.linear import PassDropout, PassSlot, Scales, prepare_layers
from altgrad_cli.surgery.precision_plan import PrecisionPlan
from altgrad_cli.training.state import TrainState
from altgrad_cli.updates.flat import FlatParameters, flatten

log = logging.getLogger(__name__)

_LARGEST = torch.finfo(torch.float32).max


@dataclass(frozen=True, slots=True)
class PassKey:
    """What a graph is specialised for; everything else is an input."""

    model: ModelConfig
    vocab_size: int
    slots: tuple[Slot, ...]
    power_of_two: bool
    margin: float
    overflow: Overflow
    stochastic: bool
    batch_shape: tuple[int, ...]
    device: torch.device
    threads: int


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
        recording = _Recording(key)
        self._call = recording.compile()
        self._order = recording.order
        self._weights, self._scales = recording.weights, recording.scales
        self._noise_shapes = recording.noise_shapes
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
        dropout_stream: torch.Generator | None,
    ) -> PassOutput:
        """Loss and gradient at the flat weights ``values``; draws what the eager pass would draw."""
        key = self._key
        outputs = list(
            self._call(
                values,
                batch.x.to(key.device).contiguous(),
                batch.y.to(key.device).contiguous(),
                _scale_tensor(scales, power_of_two=key.power_of_two, device=key.device),
                self._draw_keys(rounding_stream),
                self._draw_noise(dropout_stream),
                self._ones,
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

    def _draw_noise(self, stream: torch.Generator | None) -> Tensor:
        # One draw a layer, as the eager pass makes them.
        drawn = [torch.rand(shape, generator=stream) for shape in self._noise_shapes]
        return (torch.stack(drawn) if drawn else torch.empty(0)).to(self._key.device)


def _scale_tensor(scales: Scales, *, power_of_two: bool, device: torch.device) -> Tensor:
    """float32 (layers, 3, 2), as ``round_traced`` takes it; 1 where the graph takes the scale itself."""
    rows = [[1.0 if scale is None else scale for scale in row] for row in scales]
    pairs = [[(1 / s if power_of_two else s, s) for s in row] for row in rows]
    return torch.tensor(pairs, dtype=torch.float32).to(device)


_EMBEDDING_BACKWARD = torch.ops.aten.embedding_dense_backward.default


class _Decompositions(dict[Any, Any]):
    """torch's own, but for the backward of an embedding.

    Decomposed it adds rows atomically, as the threads come along; undecomposed in a fixed order. Pickled by
    name, for torch makes it part of the key under which it keeps a compiled graph for the next process.
    """

    def __init__(self) -> None:
        from torch._inductor.decomposition import select_decomp_table

        super().__init__(select_decomp_table())
        self.pop(_EMBEDDING_BACKWARD, None)

    def __reduce__(self) -> tuple[type[_Decompositions], tuple[()]]:
        return type(self), ()


class _Recording:
    """One eager pass written down: the graph, and what its outputs are."""

    def __init__(self, key: PassKey) -> None:
        self._key = key
        self._slot = PassSlot()
        with torch.device("meta"):
            self._model = GPT(key.model, key.vocab_size)
        named = prepare_layers(self._model, self._slot)
        names = [name for name, _ in named]
        self.layers = len(names)
        tokens = math.prod(key.batch_shape)
        shapes = [layer.weight.shape for _, layer in named]
        self.most_lines = max(
            line_count(shape) for o, i in shapes for shape in ((o, i), (tokens, i), (tokens, o))
        )
        self._flat: FlatParameters = flatten(self._model, [name for name in names if name != HEAD])
        drops = [
            module for module in self._model.modules() if isinstance(module, PassDropout) and module.rate
        ]
        self.noise_shapes = [(*key.batch_shape, key.model.n_embd)] * len(drops)
        self.order: list[tuple[int, int]] = []
        self.sizes: list[int] = []
        self.weights: list[int] = []
        self.scales: list[tuple[int, int]] = []

    def compile(self) -> Callable[..., Sequence[Tensor]]:
        """Record and compile; the callable takes what ``_pass`` takes."""
        from torch._guards import TracingContext, tracing
        from torch._inductor.compile_fx import compile_fx
        from torch._inductor.lowering import lowerings, make_fallback
        from torch._subclasses import FakeTensorMode
        from torch.fx.experimental.proxy_tensor import make_fx
        from torch.fx.experimental.symbolic_shapes import ShapeEnv

        key = self._key
        tokens = torch.zeros(key.batch_shape, dtype=torch.int64, device=key.device)
        inputs = [
            torch.zeros(self._flat.bounds[-1], device=key.device),
            tokens,
            tokens.clone(),
            torch.ones(self.layers, len(OPERAND_ROLES), 2, device=key.device),
            torch.zeros(len(key.slots) if key.stochastic else 0, 2, dtype=torch.int32, device=key.device),
            torch.zeros((len(self.noise_shapes), *self.noise_shapes[0]) if self.noise_shapes else 0).to(
                key.device
            ),
            torch.ones(self.most_lines, device=key.device),
        ]
        with torch.autograd.set_multithreading_enabled(False):
            graph = make_fx(lambda *given: self._pass(*given), tracing_mode="fake")(*inputs)
        if _EMBEDDING_BACKWARD not in lowerings:  # where CI is set, inductor wants it said outright
            make_fallback(_EMBEDDING_BACKWARD, override_decomp=True)
        with torch.no_grad():
            mode = FakeTensorMode(shape_env=ShapeEnv(assume_static_by_default=True))
            with tracing(TracingContext(mode)):
                call: Any = compile_fx(graph, inputs, decompositions=_Decompositions())
            call(*inputs)  # a graph that cannot run is found out here
        return cast(Callable[..., Sequence[Tensor]], call)

    def _pass(
        self, values: Tensor, x: Tensor, y: Tensor, scales: Tensor, keys: Tensor, noise: Tensor, ones: Tensor
    ) -> list[Tensor]:
        key, flat = self._key, self._flat
        rounding = TracedRounding(
            key.slots,
            scales,
            keys if key.stochastic else None,
            ones,
            power_of_two=key.power_of_two,
            margin=key.margin,
            overflow=key.overflow,
        )
        views = [view.detach().requires_grad_() for view in flat.views(values)]
        drawn = iter(noise.unbind(0) if self.noise_shapes else ())
        with torch.enable_grad(), self._slot.use(rounding, lambda x: next(drawn)):
            named = dict(zip(flat.names, views, strict=True))
            logits = torch.func.functional_call(self._model, named, (x,))
            loss = cross_entropy(logits, y)
            gradients = torch.autograd.grad(loss, views)
        outputs = [loss.detach(), torch.cat([gradient.reshape(-1) for gradient in gradients])]
        self.order = rounding.order
        self.sizes = rounding.sizes
        if rounding.counts:
            amax, sums = zip(*rounding.counts, strict=True)
            outputs += [torch.stack(amax), torch.stack(sums)]
        self.weights = list(rounding.rounded_weights)
        outputs += rounding.rounded_weights.values()
        self.scales = list(rounding.scales_taken)
        return [*outputs, *rounding.scales_taken.values()]


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


def find_pass(state: TrainState, plan: PrecisionPlan, scales: Scales, batch: Batch) -> CompiledPass | None:
    """The compiled form of a pass; None where it has to be the eager one.

    That is: without a compiler; while a delayed scale is not known yet; for formats wider than float32; and
    for scales with which the graph would leave float32's range. All of it follows from the state, so that
    a resumed or repeated run takes the same way again.
    """
    config = state.config
    if compile_failure(state.device):
        return None
    scaling = config.precision.scaling
    slots = []
    for index, layer in enumerate(plan.layers):
        for number, role in enumerate(OPERAND_ROLES):
            fmt, scale = layer.format_of(role), scales[index][number]
            if fmt is None:
                continue
            if scale is None and layer.recipe != "amax":
                return None
            if scale is not None and not _scale_fits(scale, fmt, scaling):
                return None
            if traced_plan(fmt, config.precision.overflow).carrier is Carrier.FLOAT64:
                return None
            slots.append(Slot(index, number, fmt, scale is None))
    return _compiled(
        PassKey(
            model=config.model,
            vocab_size=state.model.wte.num_embeddings,
            slots=tuple(slots),
            power_of_two=scaling.power_of_two,
            margin=scaling.margin,
            overflow=config.precision.overflow,
            stochastic=plan.stochastic_operands,
            batch_shape=tuple(batch.x.shape),
            device=state.device,
            threads=torch.get_num_threads(),
        )
    )


def _scale_fits(scale: float, fmt: FP8Format, scaling: ScalingConfig) -> bool:
    # A uniform grid's step, at least 2^-16, joins the scale; and the maximum must not round to inf.
    lowest = 2.0**-80 if fmt.is_uniform else 2.0**-100
    if not lowest <= scale <= 2.0**80 or scale * fmt.max_representable_value > _LARGEST:
        return False
    return not scaling.power_of_two or is_power_of_two(scale)
