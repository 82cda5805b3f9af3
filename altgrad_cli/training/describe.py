"""The first events of a run: what is about to be trained, in words that need no code to be read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from altgrad_cli.config.loading import resolve
from altgrad_cli.config.run import OBSERVED, TrainConfig, is_code
from altgrad_cli.metrics.stall import first_step_stall_rate, predicted_stall_rate
from altgrad_cli.rounding.constants import Rounding
from altgrad_cli.surgery.coverage import Coverage, coverage
from altgrad_cli.training.after_step import Run, alert_event
from altgrad_cli.training.environment import describe_environment
from altgrad_cli.training.events import Event, RunStarted
from altgrad_cli.training.measuring.reduce import pool_values
from altgrad_cli.training.passes.buffers import kept_buffers
from altgrad_cli.training.passes.eager import deployed
from altgrad_cli.training.state import TrainState
from altgrad_cli.training.streams import fork
from altgrad_cli.updates.schedule import learning_rate_at


def describe_start(
    config: TrainConfig,
    state: TrainState,
    init_hash: str,
    resumed_from: Path | None,
    covered: Coverage | None = None,
) -> RunStarted:
    """The ``run_started`` event of a run that stands before its next step.

    Args:
        covered: counted in a pass of the run; None counts in one more.
    """
    corpus = state.subject.corpus
    return RunStarted(
        step=state.step,
        config=resolve(config),
        layers=state.layer_names,
        precision=[
            {
                "layer": layer.name,
                "kind": layer.kind,
                "recipe": layer.recipe,
                "roles": {role: fmt.describe() for role, fmt in layer.formats},
            }
            for layer in state.plan.layers
        ],
        init_hash=init_hash,
        parameters=state.flat.values.numel(),
        corpus={}
        if corpus is None
        else {
            "source": corpus.source,
            "tokenizer": corpus.tokenizer,
            "vocab_size": corpus.vocab_size,
            "fingerprint": corpus.fingerprint,
            "train_tokens": len(corpus.train),
            "validation_tokens": len(corpus.validation),
        },
        predicted_stall=predict_stall(config, state),
        environment=describe_environment(
            state.device,
            ranks=state.ranks.count,
            parallel=config.runtime.parallel,
            subject=config.subject,
        ),
        injections=list(config.inject),
        coverage=_coverage(state, covered),
        resumed_from=None if resumed_from is None else str(resumed_from),
    )


def _coverage(state: TrainState, found: Coverage | None) -> dict[str, Any] | None:
    """``found``, or that of a forward pass on the next batch; nothing moves: no stream, buffer or history.

    None where the model cannot be run under a counter, which is no reason not to train it.
    """
    if found is None:
        if state.subject.train is None:
            return None
        batch = state.subject.train(fork(state.streams["data"]))
        try:
            with kept_buffers(state.model), deployed(state, state.plan):
                found = coverage(state.model, lambda: state.model(batch.x.to(state.device)))
        except (RuntimeError, NotImplementedError, TypeError):
            return None
    return {**asdict(found), "share": found.share, "unreached": found.unreached}


def report_holes(run: Run, started: RunStarted) -> Iterator[Event]:
    """Warn where much of a user's own model cannot be rounded; before the first step.

    Not of altgrad's own: what of them stays in float32 is the study's definition, the same in every run.
    """
    if started.coverage is None or not _of_others(run.config.subject) or not run.state.plan.rounds:
        return
    if run.config.monitors.enabled:
        found = {"unreached_products": started.coverage["unreached"]}
        yield from (alert_event(0, change) for change in run.monitors.alerts.update(found))


def _of_others(subject: str) -> bool:
    return subject == OBSERVED or is_code(subject)


def predict_stall(config: TrainConfig, state: TrainState) -> dict[str, Any] | None:
    """Expected bit-stall of the stored weights as they are, at the peak rate.

    None without stored weights, and for an update rule whose steps are not AdamW's.
    """
    if not (state.plan.stores_weights and config.optimizer.steps_are_adamws):
        return None
    first_rate = learning_rate_at(config, 1)
    long_run, first, sizes = [], [], []
    for index, (_, layer) in enumerate(state.layers):
        grid, scales = state.stored_grid(index), state.stored_scales[index]
        if grid is None or scales is None:
            continue
        weight = layer.weight.detach()
        placed = grid.element, grid.spread(scales, weight.shape)
        beta1 = config.optimizer.betas[0]
        long_run.append(float(predicted_stall_rate(weight, *placed, config.learning_rate, beta1)))
        mode: Rounding = "stochastic" if "stored_weights" in state.plan.stochastic else "nearest"
        first.append(float(first_step_stall_rate(weight, *placed, first_rate, rounding=mode)))
        sizes.append(weight.numel())
    return {
        "long_run": pool_values("weights", long_run, sizes),
        "first_step": pool_values("weights", first, sizes),
        "learning_rate": config.learning_rate,
        "first_learning_rate": first_rate,
    }
