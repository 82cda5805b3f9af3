"""What a sweep will cost and what its formats will stall at, before anything is run in earnest."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import TYPE_CHECKING

from altgrad_cli.config.loading import flat, resolve
from altgrad_cli.config.run import TrainConfig
from altgrad_cli.formats import parse_format
from altgrad_cli.formats.analysis import StallPrediction, predicted_stall
from altgrad_cli.sweeps.arms import Arm

if TYPE_CHECKING:
    from altgrad_cli.subjects.subject import Subject

INITIAL_STD = 0.02
"""Standard deviation of the initial weights."""
_TIMED_STEPS = 4
_TIMED_SECONDS = 20.0
"""After this many seconds no further step is begun."""
_MOST_PARAMETERS = 5e7
_MOST_WORK = {"cpu": 4e9, "cuda": 4e12}
"""Weights times tokens of a step that is timed: about a second on a core, or on a card."""
_TOKEN_WORK = 1e5
"""What a token costs beside its products (rounding, counting, norms), in weights; measured on one core."""


@dataclass(frozen=True, slots=True)
class StepTime:
    """What one step takes on this machine."""

    seconds: float
    measured: str
    """What was timed; where it is smaller than what was asked for, ``seconds`` is scaled up from it."""


def time_a_step(config: TrainConfig, subject: Subject | None = None) -> StepTime:
    """Wall time of one step of ``config`` on this machine, from a few steps that leave nothing behind.

    Loads the corpus and builds the network, so what would stop the run is found here. A step that would take
    long or much memory is timed at a smaller size, and its time scaled by the multiplications left out; that
    of ``subject``, a user's own, whose size nobody knows, as it is.
    """
    from altgrad_cli.subjects.built_in import read_corpus
    from altgrad_cli.subjects.gpt.layer_names import layer_kind
    from altgrad_cli.surgery.precision_plan import plan_precision
    from altgrad_cli.training.engine import train
    from altgrad_cli.training.events import RunStarted
    from altgrad_cli.training.faults import parse_injection, resolve_injections
    from altgrad_cli.training.state import choose_device

    for text in config.inject:  # the steps that are timed are too few for them
        parse_injection(text, config.max_steps)
    kind = layer_kind if subject is None else subject.kind
    reduced, changes, factor = config, list[str](), 1.0
    if subject is None:
        vocabulary = read_corpus(config).vocab_size
        device = choose_device(config.runtime.device).type
        reduced, changes = _within_reach(config, vocabulary, _MOST_WORK.get(device, _MOST_WORK["cpu"]))
        factor = _work(config, vocabulary) / _work(reduced, vocabulary)
    runtime = replace(reduced.runtime, evaluation_batches=1, capture_at=())
    brief = replace(reduced, max_steps=_TIMED_STEPS, runtime=runtime, inject=())
    times: list[float] = []
    last = time.perf_counter()
    for event in train(brief, subject=subject):
        if isinstance(event, RunStarted) and reduced.model.n_layer == config.model.n_layer:
            kinds = {name: kind(name) for name in event.layers}
            plan = plan_precision(config.precision, config.fp8_format, kinds)
            resolve_injections(config.inject, plan, config.seed, last_step=config.max_steps)
        if event.kind == "step":
            times.append(time.perf_counter() - last)
        if sum(times) > _TIMED_SECONDS:
            break
        last = time.perf_counter()
    scaled = f" with {' '.join(changes)}, times {factor:.3g}" if changes else ""
    return StepTime(median(times) * factor, f"{len(times)} steps{scaled}")


def _work(config: TrainConfig, vocabulary: int) -> float:
    """Weights that each token meets, times the tokens of a step; attention's products count as weights."""
    model = config.model
    attention = 2.0 * model.n_layer * model.n_embd * model.block_size
    return (_parameters(config, vocabulary) + attention + _TOKEN_WORK) * config.batch_size * model.block_size


def _parameters(config: TrainConfig, vocabulary: int) -> float:
    return 12.0 * config.model.n_layer * config.model.n_embd**2 + vocabulary * config.model.n_embd


def _within_reach(config: TrainConfig, vocabulary: int, most_work: float) -> tuple[TrainConfig, list[str]]:
    """``config``, or the largest of its halvings that can be timed, with what was changed.

    The batch goes first, then the block, the layers (and with them rules that may name a layer), the width.
    """
    reduced = config
    for name, least in (("batch_size", 1), ("block_size", 16), ("n_layer", 1), ("n_embd", 16)):
        model = reduced.model
        while _work(reduced, vocabulary) > most_work or (
            name in ("n_layer", "n_embd") and _parameters(reduced, vocabulary) > _MOST_PARAMETERS
        ):
            value = (reduced.batch_size if name == "batch_size" else getattr(model, name)) // 2
            if value < least:
                break
            if name == "batch_size":
                reduced = replace(reduced, batch_size=value)
                continue
            heads = 1 if name == "n_embd" else model.n_head
            model = replace(model, n_head=heads, **{name: value})
            rules = () if name == "n_layer" else reduced.precision.rules
            reduced = replace(reduced, model=model, precision=replace(reduced.precision, rules=rules))
    sizes = {"batch_size": reduced.batch_size} | {
        f"model.{name}": getattr(reduced.model, name) for name in ("block_size", "n_layer", "n_embd")
    }
    asked = flat(resolve(config))
    return reduced, [f"{key}={value}" for key, value in sizes.items() if value != asked[key]]


def estimate_seconds(arms: Sequence[Arm], per_step: float, jobs: int) -> float:
    """Wall time of ``arms`` on ``jobs`` processes, evaluations included; a plain upper guide.

    An evaluation batch is a forward pass, about a third of a step.
    """
    total = 0.0
    for arm in arms:
        config = arm.config
        evaluations = config.max_steps / config.runtime.evaluation_interval + 1
        total += per_step * (config.max_steps + evaluations * config.runtime.evaluation_batches / 3)
    return total / max(1, min(jobs, len(arms)))


def predict_stalls(config: TrainConfig, formats: Sequence[str]) -> dict[str, StallPrediction]:
    """Format -> predicted stall of its stored weights, for initial weights at the configured rate."""
    return {
        name: predicted_stall(
            parse_format(name), config.learning_rate, INITIAL_STD, beta1=config.optimizer.betas[0]
        )
        for name in formats
    }
