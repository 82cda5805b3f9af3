"""The state of a run between two steps as plain values and tensors, and back.

What ``take_snapshot`` puts into a payload, key by key:

    kind, step, adam_step           regular, best or anomaly; steps taken, and updates committed
    config, config_hash             the resolved configuration
    init_hash, formats              fingerprint of the initial weights; (step, format) from which each held
    buffers                         name -> value, where the network has any
    weights                         name -> float32 carrier, a state dict of the network
    stored_weights                  layer -> codes, scale, format, where the weights live on a grid (role M)
    optimizer                       the update rule's slots (AdamW: m, v) by name of the parameter
    quantizers                      per layer and role: format in words, scale of the next pass, amax history
    streams                         every random stream, as it was before the step's first draw
    monitors                        the state of monitors and interventions, given by the engine
    corpus, injections              fingerprint of the data; planted faults and where they struck
    environment, circumstances      versions, threads, device; time, paths, W&B id (not in the content hash)

An anomaly adds ``failure``, ``batch``, ``gradient``, ``trace``, ``history`` and ``missing``.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import torch
from torch import Tensor

from altgrad_cli.checkpoints.file import content_hash, plain_copy
from altgrad_cli.config.loading import from_plain, resolve
from altgrad_cli.config.precision import OPERAND_ROLES
from altgrad_cli.config.run import TrainConfig
from altgrad_cli.errors import CheckpointError
from altgrad_cli.formats import parse_format
from altgrad_cli.rounding.codes import encode
from altgrad_cli.subjects.subject import Batch
from altgrad_cli.surgery.precision_plan import plan_precision
from altgrad_cli.training.environment import describe_environment
from altgrad_cli.training.in_use.calls import RecordedCalls
from altgrad_cli.training.in_use.optimizer import LiveOptimizer, groups_of
from altgrad_cli.training.passes.buffers import restore_buffers, saved_buffers
from altgrad_cli.training.state import TrainState, encode_stored_weights, fresh_scales
from altgrad_cli.training.streams import fork


def take_snapshot(
    state: TrainState,
    monitors_state: Mapping[str, Any],
    *,
    streams_before: Mapping[str, Tensor] | None = None,
    kind: str = "regular",
    metadata: Mapping[str, Any] | None = None,
    **extras: Any,
) -> dict[str, Any]:
    """A payload for ``write_checkpoint`` that shares no memory with ``state``.

    Args:
        monitors_state: counters and windows of monitors and interventions; plain values and tensors.
        streams_before: the random streams before the step's first draw; None takes them as they are.
        kind: ``regular``, ``best`` or ``anomaly``.
        metadata: paths, W&B id and whatever else is no part of the state.
        extras: further keys: ``corpus``, ``injections``, ``history``, ``batch``, ...
    """
    config = resolve(state.config)
    flat = state.flat
    payload = {
        "kind": kind,
        "step": state.step,
        "adam_step": state.optimizer.steps,
        "config": config,
        "config_hash": config_hash(config),
        "init_hash": state.init_hash,
        "format": state.format,
        "formats": [list(entry) for entry in state.formats],
        "weights": dict(zip(flat.names, flat.views(flat.values), strict=True)),
        "stored_weights": _stored_weights(state),
        "optimizer": state.optimizer.state_dict(),
        "quantizers": _quantizers(state),
        "streams": dict(streams_before if streams_before is not None else state.streams.state_dict()),
        "monitors": monitors_state,
        "environment": describe_environment(
            state.device,
            ranks=state.ranks.count,
            parallel=state.config.runtime.parallel,
            subject=state.config.subject,
        ),
        "circumstances": {
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "arguments": list(sys.argv),
            **(metadata or {}),
        },
        **extras,
    }
    buffers = saved_buffers(state.model)
    payload |= {"buffers": buffers} if buffers else {}
    if isinstance(state.optimizer, LiveOptimizer):
        payload["observed"] = {
            "groups": groups_of(state.optimizer),
            "kinds": dict(state.layer_kinds),
            "untrained": {n: p for n, p in state.model.named_parameters() if n not in set(flat.names)},
        }
    copied: dict[str, Any] = plain_copy(payload)
    return copied


def config_hash(config: Mapping[str, Any]) -> str:
    """Short hash of a resolved configuration; equal for equal runs."""
    return content_hash(plain_copy(config))[:16]


def _stored_weights(state: TrainState) -> dict[str, Any]:
    stored = {}
    for index, (name, layer) in enumerate(state.layers):
        grid, scales = state.stored_grid(index), state.stored_scales[index]
        if grid is not None and scales is not None:
            weight, fmt = layer.weight.detach(), grid.element
            # A grid without a code for nan cannot encode one; the carrier keeps it.
            encodable = fmt.has_nan or not weight.isnan().any()
            codes = encode(weight, fmt, grid.spread(scales, weight.shape)) if encodable else None
            stored[name] = {"codes": codes, "scale": written_scales(scales), "format": fmt.name}
    return stored


def written_scales(scales: Tensor | None) -> Tensor | float | None:
    """Scales as a payload keeps them: a number where one serves the whole tensor."""
    return scales if scales is None or scales.dim() else float(scales)


def _quantizers(state: TrainState) -> list[dict[str, Any]]:
    scales = state.scales.current(state.plan, state.config)
    described = []
    for index, layer in enumerate(state.plan.layers):
        roles: dict[str, Any] = {}
        for role, fmt in layer.formats:
            if role in OPERAND_ROLES:
                number = OPERAND_ROLES.index(role)
                history = state.scales.histories[index][number]
                roles[role] = {
                    "format": fmt.name,
                    "description": fmt.describe(),
                    "scale": written_scales(scales.get((index, number))),
                    "history": None if history is None else list(history.values),
                }
            else:
                roles[role] = {
                    "format": fmt.name,
                    "description": fmt.describe(),
                    "scale": written_scales(state.stored_scales[index]),
                    "history": None,
                }
        described.append({"name": layer.name, "recipe": layer.recipe, "roles": roles})
    return described


@torch.no_grad()
def restore_snapshot(state: TrainState, payload: Mapping[str, Any]) -> None:
    """Put ``state``, freshly built, where the snapshot was taken.

    Built from the payload's own config it is that state again, bit for bit. Built from one that rounds
    otherwise it goes on from the same weights, moments and streams on its own grids: stored weights are
    encoded anew, scales start anew, and the timeline of formats has a new entry.

    Raises:
        CheckpointError: the payload is of another network, or a part of it is missing.
    """
    try:
        _restore(state, payload)
    except (KeyError, TypeError, AttributeError, IndexError, ValueError, RuntimeError) as error:
        reason = f"{type(error).__name__} {error}".splitlines()[0]
        raise CheckpointError(f"the checkpoint lacks a part of the state: {reason}") from None


def _restore(state: TrainState, payload: Mapping[str, Any]) -> None:
    _check_rule(state.config, payload)
    state.flat.fill(state.flat.values, payload["weights"])
    restore_buffers(state.model, payload.get("buffers", {}))
    state.optimizer.load_state_dict(payload["optimizer"], int(payload["adam_step"]))
    state.init_hash = str(payload["init_hash"])
    state.step = int(payload["step"])
    state.formats = [(int(step), str(name)) for step, name in payload["formats"]]
    changed = grid_changed(state.config, payload)
    wanted = study_format(state.config)
    if changed and wanted not in (state.format, study_format_of(payload)):
        state.formats.append((state.step, wanted))
    if state.config.precision.regime != "bf16":
        state.plan = plan_precision(state.config.precision, state.format, state.layer_kinds)
    state.scales = fresh_scales(state.plan, state.config)
    if [entry["name"] for entry in payload["quantizers"]] != state.layer_names:
        raise CheckpointError("the checkpoint is of another network: its layers have other names")
    for index, entry in enumerate(payload["quantizers"]):
        _restore_histories(state, index, entry["roles"], changed)
        _restore_stored_scale(state, index, payload["stored_weights"].get(entry["name"]), changed)
    state.streams.load_state_dict(dict(payload["streams"]))


def _check_rule(config: TrainConfig, payload: Mapping[str, Any]) -> None:
    saved, asked = from_plain(payload["config"]).optimizer, config.optimizer
    for key in ("rule", "base", "residual"):
        before, now = getattr(saved, key), getattr(asked, key)
        if before != now:
            raise CheckpointError(
                f"the checkpoint holds the memory of optimizer.{key}={before}, not of {now}",
                allowed=f"optimizer.{key}={before}",
                hint="start a new run for another update rule",
            )


def study_format(config: TrainConfig) -> str:
    """Canonical name of the format under study that ``config`` starts with."""
    return "BF16" if config.precision.regime == "bf16" else parse_format(config.fp8_format).name


def study_format_of(payload: Mapping[str, Any]) -> str:
    """The same of the configuration in ``payload``."""
    config = payload["config"]
    return "BF16" if config["precision"]["regime"] == "bf16" else parse_format(config["fp8_format"]).name


def grid_changed(config: TrainConfig, payload: Mapping[str, Any]) -> bool:
    """Whether a run that goes on from ``payload`` with ``config`` rounds otherwise than before."""
    saved = from_plain(payload["config"])  # a setting that is newer than the checkpoint has its default
    return (config.fp8_format, config.precision) != (saved.fp8_format, saved.precision)


def _restore_histories(state: TrainState, index: int, roles: Mapping[str, Any], changed: bool) -> None:
    """The amax histories of one layer; on another grid an operand starts anew, as after a shift."""
    layer = state.plan.layers[index]
    for history, role in zip(state.scales.histories[index], OPERAND_ROLES, strict=True):
        saved = roles.get(role, {})
        values, fmt = saved.get("history"), layer.format_of(role)
        if not changed and (history is None) != (values is None):
            raise CheckpointError(f"the amax history of {layer.name} ({role}) does not fit the configuration")
        if history is not None and values is not None and fmt is not None and fmt.name == saved["format"]:
            history.values = [float(value) for value in values]


def _restore_stored_scale(
    state: TrainState, index: int, saved: Mapping[str, Any] | None, changed: bool
) -> None:
    """The scale of one layer's stored weights; they are encoded anew where their grid is another."""
    grid = state.stored_grid(index)
    if grid is None:
        state.stored_scales[index] = None
    elif saved is not None and saved["format"] == grid.element.name:
        state.stored_scales[index] = torch.as_tensor(saved["scale"], dtype=torch.float64)
    elif not changed:
        raise CheckpointError(
            f"the stored weights of {state.layer_names[index]} do not fit the configuration"
        )
    else:
        encode_stored_weights(state, [index])


def next_batch(state: TrainState) -> Batch | None:
    """The batch that the next step will draw, the stream staying where it is; None without the data."""
    draw = state.subject.train
    return None if draw is None else draw(fork(state.streams["data"]))


def batch_to_plain(batch: Batch | None) -> dict[str, Any] | None:
    """A batch as a payload keeps it."""
    if batch is None:
        return None
    calls = None
    if isinstance(batch, RecordedCalls):
        calls = [
            {"args": c.args, "kwargs": c.kwargs, "stream": c.stream, "gradients": c.gradients}
            for c in batch.calls
        ]
    return {"x": batch.x, "y": batch.y, "offsets": list(batch.offsets), "calls": calls}


def named_gradient(state: TrainState, gradient: Tensor) -> dict[str, Tensor]:
    """A flat gradient by name of the parameter, for a payload."""
    return dict(zip(state.flat.names, state.flat.views(gradient), strict=True))
