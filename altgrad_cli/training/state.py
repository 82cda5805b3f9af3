"""Everything that changes during a run, built once from a frozen config."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from altgrad_cli.config.precision import OPERAND_ROLES
from altgrad_cli.config.run import TrainConfig
from altgrad_cli.errors import ConfigError, UsageError
from altgrad_cli.formats import parse_format
from altgrad_cli.rounding.grid import UNSCALED, Grid, stored_grid
from altgrad_cli.rounding.scaling import AmaxHistory, finite_part
from altgrad_cli.subjects.subject import Batch, Subject
from altgrad_cli.surgery.convolution import check_convolutions
from altgrad_cli.surgery.linear import PassSlot, QuantizedLayer, operand_grids
from altgrad_cli.surgery.precision_plan import UNMEASURED, UNSTORED, LayerKind, PrecisionPlan, plan_precision
from altgrad_cli.surgery.swapping import prepare_layers
from altgrad_cli.training.parallel.ranks import ALONE, Ranks
from altgrad_cli.training.streams import Streams
from altgrad_cli.updates.flat import FlatParameters, flatten
from altgrad_cli.updates.registry import build_rule
from altgrad_cli.updates.rule import UpdateRule


@dataclass(slots=True)
class OperandScales:
    """Amax history of every operand that has a delayed scale; None where the recipe needs none."""

    histories: list[list[AmaxHistory | None]]

    def current(self, plan: PrecisionPlan, config: TrainConfig) -> dict[tuple[int, int], Tensor]:
        """(layer, operand role) -> the scale for the next pass; absent where it is taken from the tensor.

        That is under the amax recipe, and at the warm start of a delayed one.
        """
        scales: dict[tuple[int, int], Tensor] = {}
        known: dict[Grid, dict[tuple[int, int], float]] = {}
        for index, (layer, histories) in enumerate(zip(plan.layers, self.histories, strict=True)):
            grids = operand_grids(layer, config.precision.scaling)
            for number, (grid, history) in enumerate(zip(grids, histories, strict=True)):
                if grid is not None and grid.recipe == "none":
                    scales[index, number] = UNSCALED
                elif grid is not None and history is not None and len(history):
                    known.setdefault(grid, {})[index, number] = history.get_amax()
        for grid, amax in known.items():
            together = grid.scales_of(torch.tensor(list(amax.values()), dtype=torch.float64))
            scales |= zip(amax, together.unbind(), strict=True)
        return scales

    def update(self, amax: list[list[float]]) -> None:
        """Append this step's amax of each operand; a non-finite one never enters."""
        for histories, row in zip(self.histories, amax, strict=True):
            for history, value in zip(histories, row, strict=True):
                if history is not None:
                    history.update(value)


def fresh_scales(plan: PrecisionPlan, config: TrainConfig) -> OperandScales:
    """Empty histories for the operands of ``plan`` with a delayed scale."""
    length = config.precision.scaling.history
    return OperandScales(
        [
            [AmaxHistory(length) if role in layer.delayed_roles else None for role in OPERAND_ROLES]
            for layer in plan.layers
        ]
    )


@dataclass(slots=True)
class TrainState:
    """The state of a run between two steps."""

    config: TrainConfig
    plan: PrecisionPlan
    device: torch.device
    subject: Subject
    model: nn.Module
    layers: list[tuple[str, QuantizedLayer]]
    slot: PassSlot
    flat: FlatParameters
    optimizer: UpdateRule
    scales: OperandScales
    stored_scales: list[Tensor | None]
    """Power-of-two scales of each layer's stored weights; None where a float32 master is kept."""
    streams: Streams
    init_hash: str
    formats: list[tuple[int, str]]
    """(step, format) from which each format was in force."""
    step: int = 0
    ranks: Ranks = ALONE
    """The processes that share every batch."""

    @property
    def format(self) -> str:
        """The format under study now."""
        return self.formats[-1][1]

    @property
    def layer_names(self) -> list[str]:
        """The layers that round in the order in which the model lists them, heads last."""
        return [name for name, _ in self.layers]

    @property
    def layer_kinds(self) -> dict[str, LayerKind]:
        """What each of them is."""
        return {layer.name: layer.kind for layer in self.plan.layers}

    def loss(self, batch: Batch, *, reduction: str = "mean") -> Tensor:
        """The subject's loss at the state's weights, rounded as the slot says."""
        return batch.loss(self.model, self.subject.loss, self.device, reduction=reduction)

    @property
    def trained_layers(self) -> int:
        """How many of the layers, the first ones, have a weight that is trained and measured."""
        return sum(layer.kind not in UNMEASURED for layer in self.plan.layers)

    def parameter_of(self, layer: str) -> str:
        """The parameter that is the weight of ``layer``: of a tied head it is the embedding's."""
        weight: nn.Parameter = self.model.get_submodule(layer).weight  # type: ignore[assignment]
        return next(name for name, parameter in self.model.named_parameters() if parameter is weight)

    def stored_grid(self, layer: int) -> Grid | None:
        """The grid on which layer number ``layer`` keeps its weights, or None."""
        fmt = self.plan.layers[layer].format_of("stored_weights")
        return None if fmt is None else stored_grid(fmt)

    def placed_on(self, layer: int) -> tuple[Grid, Tensor]:
        """The grid and scales of layer number ``layer``'s weights, by which a rule may measure its steps.

        Of float32 weights it is the grid of the format under study, on which they are not rounded.
        """
        grid, scales = self.stored_grid(layer), self.stored_scales[layer]
        if grid is None or scales is None:
            grid = stored_grid(parse_format(self.config.fp8_format))
            scales = grid.stored_scales(finite_part(self.layers[layer][1].weight.detach()))
        return grid, scales


def choose_device(name: str) -> torch.device:
    """The torch device for ``runtime.device``; ``auto`` takes CUDA, then the CPU.

    Raises:
        ConfigError: the device asked for is not there, or is MPS, which has no float64.
    """
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device("cuda" if present["cuda"] else "cpu")
    if not present[name]:
        raise ConfigError(
            f"this machine has no {name} device",
            where="runtime.device",
            allowed=", ".join(["auto", *(kind for kind, here in present.items() if here)]),
            hint="use --device auto",
        )
    if name == "mps":
        raise ConfigError(
            "MPS has no float64, in which the statistics of every rounding are kept",
            where="runtime.device",
            allowed="auto, cpu, cuda",
            hint="use --device cpu",
        )
    return torch.device(name)


def fingerprint(tensor: Tensor) -> str:
    """SHA-256 of the tensor's bytes (float32, little endian), shortened to 16 hex digits."""
    return hashlib.sha256(tensor.detach().cpu().contiguous().numpy().tobytes()).hexdigest()[:16]


def build_state(config: TrainConfig, subject: Subject, ranks: Ranks = ALONE) -> TrainState:
    """The state before the first step: seeded first, then built, hashed, and encoded where M is on.

    Raises:
        UsageError: the subject's model cannot be trained so.
    """
    device = choose_device(config.runtime.device)
    streams = Streams(config.seed)
    slot = PassSlot()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(streams["init"].initial_seed())
        model = subject.build(streams["init"])
    layers = prepare_layers(model, slot, subject.kind)
    kinds = {name: subject.kind(name) for name, _ in layers}
    plan = plan_precision(config.precision, config.fp8_format, kinds)
    check_convolutions(plan, layers)
    model.to(device)
    flat = flatten(model, hidden_layers(model, kinds))
    init_hash = fingerprint(flat.values)
    state = TrainState(
        config=config,
        plan=plan,
        device=device,
        subject=subject,
        model=model,
        layers=layers,
        slot=slot,
        flat=flat,
        optimizer=build_rule(config.optimizer, flat),
        scales=fresh_scales(plan, config),
        stored_scales=[None] * len(layers),
        streams=streams,
        init_hash=init_hash,
        formats=[(0, parse_format("BF16" if config.precision.regime == "bf16" else config.fp8_format).name)],
        ranks=ranks,
    )
    encode_stored_weights(state)
    return state


def hidden_layers(model: nn.Module, kinds: Mapping[str, LayerKind]) -> list[str]:
    """The layers that may store their weights on a grid: all but heads.

    Raises:
        UsageError: one of them shares its weight with something else.
    """
    hidden = [name for name, kind in kinds.items() if kind not in UNSTORED]
    parameters = dict(model.named_parameters(remove_duplicate=False))
    bearers = Counter(map(id, parameters.values()))
    shared = [name for name in hidden if bearers[id(parameters[f"{name}.weight"])] > 1]
    if shared:
        raise UsageError(
            f"the layer {shared[0]} shares its weight with another part of the model",
            hint="let the subject call it a head: heads store no weights on a grid",
        )
    return hidden


@torch.no_grad()
def encode_stored_weights(state: TrainState, layers: Iterable[int] | None = None) -> None:
    """Put the weights of every layer (or of ``layers``) with role M onto its grid, with a fresh scale."""
    for index in range(len(state.layers)) if layers is None else layers:
        weight, grid = state.layers[index][1].weight, state.stored_grid(index)
        state.stored_scales[index] = scales = None if grid is None else grid.stored_scales(weight)
        if grid is not None and scales is not None:
            grid.round(weight, scales, out=weight.data)
