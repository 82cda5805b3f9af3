"""``observe``: what a loop is given before its first step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import get_args

import torch
from rich.console import Console
from torch import Tensor, nn

from altgrad_cli.errors import AltgradError, check_choice
from altgrad_cli.observing.lab import Lab, NanPolicy
from altgrad_cli.observing.settings import observed_config
from altgrad_cli.observing.wrappers import ranks_of, unwrapped, unwrapped_optimizer
from altgrad_cli.runs.folder import RunDirectory, create_run
from altgrad_cli.runs.loggers.jsonl import JsonlLog
from altgrad_cli.runs.loggers.listener import Listener
from altgrad_cli.runs.loggers.live import LiveView
from altgrad_cli.runs.loggers.wandb import wandb_listeners
from altgrad_cli.subjects.subject import Subject, every_layer_hidden
from altgrad_cli.surgery.in_place import restore_layers
from altgrad_cli.surgery.linear import PassSlot
from altgrad_cli.surgery.precision_plan import LayerKind
from altgrad_cli.training.after_step import Run, has_shadow
from altgrad_cli.training.faults import Faults, resolve_injections
from altgrad_cli.training.in_use.building import live_state
from altgrad_cli.training.saving.archive import Archive
from altgrad_cli.training.watch.monitors import Monitors


def observe(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    precision: str = "e5m2",
    regime: str = "standard",
    rules: Sequence[tuple[str, str]] = (),
    run_dir: str | Path | None = None,
    monitors: bool = True,
    capture: bool = True,
    nan_policy: NanPolicy = "tell",
    kind: Callable[[str], LayerKind] = every_layer_hidden,
    subject: str | None = None,
    live: bool = False,
    settings: Sequence[str] = (),
) -> Lab:
    """Round, measure and capture in a loop that stays as it is, until ``close`` of what is returned.

    Args:
        model: its ``nn.Linear``, ``nn.Conv1d``, ``nn.Conv2d`` and Transformers' ``Conv1D`` round in place.
        optimizer: any of torch's, or built like them; its step hooks are the moment before an update.
        precision, regime: the format and what is rounded, as ``fp8_format`` and ``precision.regime``.
        rules: (pattern of layer names, format), the first match wins. An ``nn.Embedding`` is rounded only
            where a rule is its very name.
        run_dir: a new folder for events, configuration, checkpoints and reports; None writes nothing. Of the
            processes of DistributedDataParallel each calls ``observe``, and rank 0 writes.
        monitors: whether anything is measured beside the loss.
        capture: keep what a capture needs: the step's inputs and a copy of the optimizer's state.
        nan_policy: what becomes of a step that is not finite: ``tell`` lets it happen, ``drop`` undoes it,
            ``stop`` raises ``NonfiniteStep`` before it happens.
        kind: what a layer is; one that shares its weight is a head in any case.
        subject: ``module:function`` that builds this model, recorded for whoever diagnoses a capture.
        live: lines about the progress on stderr.
        settings: further ``key=value`` of the configuration.

    Raises:
        UsageError: the model, the optimizer or a setting cannot be used; nothing was changed.
    """
    check_choice("nan_policy", nan_policy, get_args(NanPolicy))
    optimizer = unwrapped_optimizer(optimizer)
    inner, ranks = unwrapped(model), ranks_of(model)
    given = ",".join(f"{{pattern: '{pattern}', format: {fmt}}}" for pattern, fmt in rules)
    config = observed_config(
        optimizer,
        precision=precision,
        regime=regime,
        monitors=monitors,
        shadow=True,
        subject=subject,
        overrides=[*([f"precision.rules=[{given}]"] if given else []), *settings],
    )
    its_own = Subject(_no_build, _no_loss, None, None, kind)
    state, rule, placed = live_state(config, inner, lambda live: optimizer, its_own, PassSlot())
    try:
        faults = Faults(resolve_injections(config.inject, state.plan, config.seed), config.seed)
        watched = Monitors(config, state)
        watched.nonfinite.patience = config.max_steps
        written = run_dir if ranks.speaks else None
        directory: RunDirectory | None = ranks.agreed(
            lambda: None if written is None else create_run(Path(written), config, where="run_dir")
        )
    except BaseException:
        restore_layers(placed)
        raise
    run = Run(
        config=config,
        state=state,
        monitors=watched,
        faults=faults,
        archive=None if directory is None or not capture else Archive(directory.path, faults, {}),
        capture_requested=lambda: False,
        shadow_buffer=torch.empty_like(state.flat.values) if has_shadow(config, state) else None,
        validation=[],
        keeps_nonfinite=nan_policy == "tell",
    )
    listeners: list[Listener] = []
    if directory is not None:
        listeners += [JsonlLog(directory.events), *wandb_listeners(config, directory, warn=_say)]
    if live and ranks.speaks:
        listeners.append(LiveView(Console(stderr=True, force_terminal=False), None))
    return Lab(
        run,
        model,
        ranks=ranks,
        rule=rule,
        placed=placed,
        directory=directory,
        listeners=listeners,
        nan_policy=nan_policy,
        capture=capture,
    )


def _no_build(generator: torch.Generator) -> nn.Module:
    raise AltgradError("an observed model is not built here")


def _no_loss(output: Tensor, target: Tensor, /, *, reduction: str = "mean") -> Tensor:
    raise AltgradError("the loss of an observed loop is its own")


def _say(text: str) -> None:
    Console(stderr=True).print(text)
