"""A training state round a model and an optimizer that are in use, and stay their owner's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import torch
from torch import nn

from altgrad_cli.config.run import TrainConfig
from altgrad_cli.errors import UsageError
from altgrad_cli.formats import parse_format
from altgrad_cli.subjects.subject import Subject
from altgrad_cli.surgery.convolution import check_convolutions
from altgrad_cli.surgery.in_place import PlacedLayer, place_layers, restore_layers
from altgrad_cli.surgery.linear import PassSlot
from altgrad_cli.surgery.precision_plan import UNSTORED, LayerKind, plan_precision
from altgrad_cli.training.in_use.optimizer import LiveOptimizer
from altgrad_cli.training.in_use.parameters import LiveParameters, live_parameters
from altgrad_cli.training.state import TrainState, encode_stored_weights, fingerprint, fresh_scales
from altgrad_cli.training.streams import Streams

Made = tuple[TrainState, LiveOptimizer, list[tuple[str, PlacedLayer]]]


def live_state(
    config: TrainConfig,
    model: nn.Module,
    make: Callable[[LiveParameters], torch.optim.Optimizer],
    subject: Subject,
    slot: PassSlot,
) -> Made:
    """The state of ``model`` as it is; its layers round where they stand, its weights are encoded for M.

    Args:
        make: gives the optimizer of the parameters.
        subject: its ``kind`` is asked of every layer; a layer that shares its weight is a head, and one whose
            weight takes no gradient is untrained, whatever it says.

    Raises:
        UsageError: a parameter of a layer is not float32, or nothing of the model would be rounded.
    """
    kinds: dict[str, LayerKind] = {}
    asked = {rule.pattern for rule in config.precision.rules}
    placed = place_layers(model, slot, _kinds(model, subject.kind, kinds), asked)
    try:
        _check(placed)
        kinds = {name: kinds[name] for name, _ in placed}
        plan = plan_precision(config.precision, config.fp8_format, kinds)
        live = live_parameters(
            model,
            [name for name, kind in kinds.items() if kind not in UNSTORED],
            [name for name, kind in kinds.items() if kind == "head"],
            frozenset(f"{name}.weight" for name, layer in placed if layer.turned),
        )
        views = dict(zip(live.flat.names, live.flat.views(live.flat.values), strict=True))
        names = {id(each): name for name, each in zip(live.flat.names, live.own, strict=True)}
        rule = LiveOptimizer(make(live), live)
        state = TrainState(
            config=config,
            plan=plan,
            device=live.flat.values.device,
            subject=subject,
            model=model,
            layers=[
                (name, layer.shown(views.get(names.get(id(layer.own.weight), ""), layer.own.weight.detach())))
                for name, layer in placed
            ],
            slot=slot,
            flat=live.flat,
            optimizer=rule,
            scales=fresh_scales(plan, config),
            stored_scales=[None] * len(placed),
            streams=Streams(config.seed),
            init_hash=fingerprint(live.flat.values),
            formats=[
                (0, parse_format("BF16" if config.precision.regime == "bf16" else config.fp8_format).name)
            ],
        )
        check_convolutions(plan, state.layers)
        encode_stored_weights(state)
        if plan.stores_weights:
            live.write(live.flat.values)
    except BaseException:
        restore_layers(placed)
        raise
    return state, rule, placed


def _kinds(
    model: nn.Module, asked: Callable[[str], LayerKind], found: dict[str, LayerKind]
) -> Callable[[str], LayerKind]:
    """What each layer is, written into ``found``."""
    bearers = Counter(id(each) for _, each in model.named_parameters(remove_duplicate=False))

    def kind(name: str) -> LayerKind:
        layer = model.get_submodule(name)
        weight = layer.weight
        if isinstance(layer, nn.Embedding):
            found[name] = "embedding"
        elif not weight.requires_grad:  # type: ignore[union-attr]
            found[name] = "untrained"
        else:
            found[name] = "head" if bearers[id(weight)] > 1 else asked(name)
        return found[name]

    return kind


def _check(placed: list[tuple[str, PlacedLayer]]) -> None:
    if not placed:
        raise UsageError(
            "the model has no layer that altgrad rounds, so nothing of it would be rounded",
            allowed="a model with an nn.Linear, nn.Conv1d, nn.Conv2d, or Transformers' Conv1D",
        )
    for name, layer in placed:
        if layer.own.weight.dtype != torch.float32:
            raise UsageError(
                f"the weight of {name} is {layer.own.weight.dtype}",
                allowed="float32: what is rounded is rounded from it",
                hint="keep the model in float32 and let autocast do the rest",
            )
    if not any(layer.own.weight.requires_grad for _, layer in placed):
        raise UsageError("no layer of the model that altgrad rounds is trained")
