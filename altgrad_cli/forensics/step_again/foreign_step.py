"""One batch through a model with another program's weights: the step that altgrad would take with them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from altgrad_cli.checkpoints.foreign import ForeignTensors
from altgrad_cli.checkpoints.named_tensors import exact_values, network_of
from altgrad_cli.config.loading import load_config
from altgrad_cli.errors import UsageError
from altgrad_cli.forensics.step_again.replay_state import ReplayState
from altgrad_cli.forensics.step_again.variations import Trials, outcome_of
from altgrad_cli.forensics.step_again.what_if import GRID_FORMATS, Counterfactual, what_if
from altgrad_cli.formats import parse_format
from altgrad_cli.metrics.weights.grid import grid_alignment_statistics
from altgrad_cli.rounding.grid import stored_grid
from altgrad_cli.subjects.weights_of_others import with_weights
from altgrad_cli.subjects.yours import load_yours
from altgrad_cli.training.faults import Faults
from altgrad_cli.training.origin import FirstNonfinite, find_first
from altgrad_cli.training.passes.eager import shadow_pass
from altgrad_cli.training.state import TrainState, build_state
from altgrad_cli.training.step import compute_step
from altgrad_cli.training.streams import fork


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerFit:
    """How the weights of one layer fit a format, on one power-of-two scale."""

    layer: str
    format: str
    rounded_to_zero: float
    grid_error_ulp_mean: float
    relative_error: float
    """|Q(w) - w| over |w|, both L2 norms."""


@dataclass(frozen=True, slots=True)
class ForeignStep:
    """What one batch came to."""

    given: ReplayState
    first: FirstNonfinite | None
    fits: tuple[LayerFit, ...]
    counterfactuals: tuple[Counterfactual, ...]
    words: tuple[str, ...]
    """How the weights were fitted to the model, and what the step came to."""


def foreign_step(
    foreign: ForeignTensors, named: str, *, format: str | None, data: str | None, everything: bool
) -> ForeignStep:
    """Load the tensors into the subject ``named`` on the command line and take one step from its data.

    Args:
        format: the format under study; None takes that of the base configuration.
        data: what the subject is told of where its data lies.
        everything: whether to try every what-if.

    Raises:
        CheckpointError: the weights are not those of the subject's model.
        UsageError: the subject cannot be used.
    """
    settings = [f"subject={named}", "precision.regime=standard"]
    settings += [f"fp8_format={format}"] if format else []
    settings += [f"data.path={data}"] if data else []
    config = load_config("base", settings)
    subject, fitted = with_weights(load_yours(named, config), _values(foreign), str(foreign.path))
    state = build_state(config, subject)
    if subject.train is None:
        raise UsageError("the subject has no batches", where=named)
    batch = subject.train(fork(state.streams["data"]))
    given = ReplayState(state, batch, "drawn from the subject", Faults((), config.seed))
    first = find_first(given.trace())
    shadow = shadow_pass(state, batch).gradient
    reference = shadow if bool(torch.isfinite(shadow).all()) else None
    recorded = outcome_of(state, compute_step(state, batch), reference)
    words = [f"one batch of {named} in {state.format}, standard: loss {recorded.loss}"]
    if first is not None:
        words.append(f"first not finite, in execution order: {first.words}")
    if fitted.prefix:
        words.append(f"its names stand after the prefix {fitted.prefix!r}")
    if fitted.unused:
        words.append(
            f"{len(fitted.unused)} tensors of the file are not the model's: {', '.join(fitted.unused[:4])}"
        )
    tried = tuple(what_if(Trials(given, reference, recorded))) if everything else ()
    return ForeignStep(given, first, tuple(_fits(state)), tried, tuple(words))


def _values(foreign: ForeignTensors) -> Mapping[str, Tensor]:
    """The network's tensors by name; of a type that torch cannot compute with, none."""
    values = {entry.name: entry for entry in network_of(foreign.tensors)}
    found: dict[str, Tensor] = {}
    for name, entry in values.items():
        if entry.tensor is not None:
            exact = exact_values(entry.tensor)
            found[name] = entry.tensor if exact is None else exact
    return found


def _fits(state: TrainState, formats: Sequence[str] = GRID_FORMATS) -> Iterator[LayerFit]:
    for name, layer in state.layers:
        weight = layer.weight.detach()
        if not bool(torch.isfinite(weight).all()) or not bool(weight.any()):
            continue
        for words in formats:
            fmt = parse_format(words)
            grid = stored_grid(fmt)
            scales = grid.stored_scales(weight)
            rounded = grid.round(weight, scales)
            yield LayerFit(
                layer=name,
                format=fmt.name,
                rounded_to_zero=float(((rounded == 0) & (weight != 0)).sum() / (weight != 0).sum()),
                grid_error_ulp_mean=grid_alignment_statistics(weight, fmt, scales)["grid_error_ulp_mean"],
                relative_error=float((rounded - weight).double().norm() / weight.double().norm()),
            )
