"""The state before the recorded step, rebuilt from the file; and variations of it to try the step under."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from altgrad_cli.checkpoints.payload import RecordedBatch, TraceRecord, to_plain
from altgrad_cli.config.precision import OPERAND_ROLES
from altgrad_cli.config.run import TrainConfig
from altgrad_cli.errors import AltgradError, CheckpointError
from altgrad_cli.forensics.opened import OpenedCheckpoint
from altgrad_cli.subjects.corpus.batches import Batch
from altgrad_cli.subjects.corpus.tokens import Corpus, load_corpus
from altgrad_cli.surgery.precision_plan import LayerPrecision, PrecisionPlan, plan_precision
from altgrad_cli.training.faults import Faults, resolve_injections
from altgrad_cli.training.schedule import learning_rate_at
from altgrad_cli.training.snapshot import next_batch, restore_snapshot
from altgrad_cli.training.state import (
    TrainState,
    build_state,
    encode_stored_weights,
    fresh_scales,
)
from altgrad_cli.training.tracing import trace_step

_MOST_THREADS = 1024
_MOST_LOGITS = 1 << 31


@dataclass(slots=True)
class Scene:
    """Everything a step needs. ``batch`` is None where neither the file nor the corpus has it."""

    state: TrainState
    batch: Batch | None
    batch_origin: str
    """``recorded``, ``drawn again from the corpus``, or why there is none."""
    faults: Faults
    step: int
    learning_rate: float
    corpus: Corpus | None


def rebuild(opened: OpenedCheckpoint, data: str | None = None) -> Scene:
    """Build the network of the recorded config and put it where the checkpoint was taken.

    ``data`` is where the user says the corpus lies; None follows no path and knows the embedded corpus only.

    Raises:
        CheckpointError: the payload does not fit its own configuration.
    """
    config = _runnable(opened.config)
    try:
        vocabulary = int(opened.saved.weights["wte.weight"].shape[0])
        _check_size(config, opened)
        torch.set_num_threads(config.runtime.threads)
        state = build_state(config, vocabulary)
    except CheckpointError:
        raise
    except (KeyError, AttributeError, TypeError, IndexError, RuntimeError) as error:
        raise CheckpointError(
            f"the checkpoint lacks a part of the state: {type(error).__name__} {error}",
            where=str(opened.path),
        ) from None
    restore_snapshot(state, to_plain(opened.saved))
    corpus, reason = _corpus(opened, config, data)
    batch, origin = _batch(opened, state, corpus, reason)
    injections = resolve_injections(config.inject, state.plan, config.seed, after=opened.step - 1)
    return Scene(
        state=state,
        batch=batch,
        batch_origin=origin,
        faults=Faults(injections, config.seed),
        step=opened.step,
        learning_rate=learning_rate_at(config, opened.step),
        corpus=corpus,
    )


def _check_size(config: TrainConfig, opened: OpenedCheckpoint) -> None:
    """A configuration cannot ask for a network larger than the tensors that came with it."""
    held = sum(tensor.numel() for tensor in opened.saved.weights.values())
    model = config.model
    if config.runtime.threads > _MOST_THREADS:
        raise CheckpointError(
            f"the checkpoint asks for {config.runtime.threads} threads", where=str(opened.path)
        )
    blocks = 12 * model.n_layer * model.n_embd**2
    if blocks + model.block_size * model.n_embd > held:
        raise CheckpointError(
            "the checkpoint is of another network than its configuration", where=str(opened.path)
        )


def _runnable(config: TrainConfig) -> TrainConfig:
    device = config.runtime.device
    here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    device = device if here.get(device, True) else "cpu"
    return replace(config, runtime=replace(config.runtime, device=device, compile=False))


def _corpus(opened: OpenedCheckpoint, config: TrainConfig, data: str | None) -> tuple[Corpus | None, str]:
    """The run's corpus, if it is embedded or ``data`` says where it lies.

    A path, hub name or cache folder that the file itself states is never followed: the file is not trusted.
    """
    stated = config.data
    if data is None and (stated.path is not None or stated.hub is not None or stated.tokenizer != "bytes"):
        return None, "its corpus is not the embedded one: --data PATH says where it lies"
    try:
        wanted = replace(stated, path=data, hub=None, cache_dir=None)
        corpus = load_corpus(wanted, config.model.block_size)
    except (AltgradError, OSError) as error:
        return None, f"the corpus is not at hand ({getattr(error, 'message', error)})"
    recorded = opened.saved.corpus.get("fingerprint")
    if recorded != corpus.fingerprint:
        return None, "the corpus here has another fingerprint"
    return corpus, ""


def _batch(
    opened: OpenedCheckpoint, state: TrainState, corpus: Corpus | None, reason: str
) -> tuple[Batch | None, str]:
    saved = opened.saved.batch
    if saved is not None:
        return _checked(saved, state), "recorded"
    if corpus is not None:
        return next_batch(state, corpus.train), "drawn again from the corpus"
    return None, f"not in the file, and {reason}"


def _checked(saved: RecordedBatch, state: TrainState) -> Batch:
    """The recorded batch, if the network can take it.

    Raises:
        CheckpointError: it cannot.
    """
    vocabulary = int(state.model.wte.weight.shape[0])
    try:
        batch = Batch(x=saved.x, y=saved.y, offsets=saved.offsets)
        both = torch.stack((batch.x, batch.y))
        fits = (
            both.dtype == torch.int64
            and both.dim() == 3
            and 0 < both.shape[2] <= state.config.model.block_size
            and 0 < batch.x.numel() * vocabulary <= _MOST_LOGITS
            and int(both.min()) >= 0
            and int(both.max()) < vocabulary
        )
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise CheckpointError(f"the recorded batch cannot be read: {type(error).__name__}") from None
    if not fits:
        raise CheckpointError("the recorded batch is not one that the network can take")
    return batch


def another_batch(scene: Scene) -> Batch | None:
    """A batch that has nothing to do with the recorded one; None without the corpus."""
    if scene.corpus is None:
        return None
    return _random_batch(scene.state, scene.corpus.train, seed=scene.step)


def _random_batch(state: TrainState, tokens: np.ndarray, seed: int) -> Batch:
    from altgrad_cli.subjects.corpus.batches import draw_batch

    generator = torch.Generator().manual_seed(1_000_003 + seed)
    return draw_batch(tokens, state.config.batch_size, state.config.model.block_size, generator)


def plan_for(state: TrainState, config: TrainConfig, format_name: str) -> PrecisionPlan:
    """The plan of ``config`` with ``format_name`` under study; a finite format saturates."""
    return plan_precision(config.precision, format_name, state.layer_names)


def in_bf16(plan: PrecisionPlan, names: Sequence[str]) -> PrecisionPlan:
    """``plan`` with the layers ``names`` in BF16 on float32 masters."""
    from altgrad_cli.formats import parse_format

    bf16 = tuple((role, parse_format("BF16")) for role in OPERAND_ROLES)
    layers = tuple(
        LayerPrecision(layer.name, bf16, "none") if layer.name in names else layer for layer in plan.layers
    )
    return replace(plan, layers=layers)


@contextmanager
def varied(
    scene: Scene, *, config: TrainConfig | None = None, plan: PrecisionPlan | None = None
) -> Iterator[TrainState]:
    """The scene's state under another config or plan; weights and buffers are put back afterwards.

    Where the grid of stored weights changes they are encoded anew, as an emergency shift would.
    """
    state = scene.state
    config = config or state.config
    plan = plan or state.plan
    variant = replace(
        state,
        config=config,
        plan=plan,
        stored_scales=list(state.stored_scales),
        scales=_histories_under(state, config, plan),
    )
    moved = [
        layer
        for layer in range(len(state.layers))
        if variant.stored_format(layer) != state.stored_format(layer)
    ]
    kept = state.flat.values.clone() if moved else None
    try:
        if moved:
            _encode_moved(variant, moved)
        yield variant
    finally:
        if kept is not None:
            state.flat.values.copy_(kept)


def _histories_under(state: TrainState, config: TrainConfig, plan: PrecisionPlan) -> Any:
    fresh = fresh_scales(plan, config)
    for mine, recorded in zip(fresh.histories, state.scales.histories, strict=True):
        for history, source in zip(mine, recorded, strict=True):
            if history is not None and source is not None:
                history.values = source.values
    return fresh


@torch.no_grad()
def _encode_moved(variant: TrainState, moved: list[int]) -> None:
    stay = {
        layer: variant.layers[layer][1].weight.clone()
        for layer in range(len(variant.layers))
        if layer not in moved
    }
    scales = list(variant.stored_scales)
    try:
        encode_stored_weights(variant)
    except AltgradError:
        return  # weights that are not finite have no scale; the attempt will show it
    finally:
        for layer, weight in stay.items():
            variant.layers[layer][1].weight.data.copy_(weight)
            variant.stored_scales[layer] = scales[layer]


def trace_again(scene: Scene) -> tuple[TraceRecord, ...]:
    """The records of the scene's step, traced as the capture traced it, planted faults included.

    Raises:
        AltgradError: there is no batch to run it with.
    """
    if scene.batch is None:
        raise AltgradError("the step cannot be repeated without its batch", where=scene.batch_origin)
    return trace_step(scene.state, scene.batch, faults=scene.faults).records
