"""The state of a run between two steps as plain values and tensors, and back.

What ``take_snapshot`` puts into a payload, key by key:

    kind, step, adam_step           regular, best or anomaly; steps taken, and updates committed
    config, config_hash             the resolved configuration
    init_hash, formats              fingerprint of the initial weights; (step, format) from which each held
    weights                         name -> float32 carrier, a state dict of the network
    stored_weights                  layer -> codes, scale, format, where the weights live on a grid (role M)
    optimizer                       Adam's m and v by name of the parameter
    quantizers                      per layer and role: format in words, scale of the next pass, amax history
    streams                         every random stream, as it was before the step's first draw
    monitors                        the state of monitors and interventions, given by the engine
    corpus, injections              fingerprint of the data; planted faults and where they struck
    environment, circumstances      versions, threads, device; time, paths, W&B id (not in the content hash)

An anomaly adds ``failure``, ``batch``, ``gradient``, ``trace``, ``history`` and ``missing``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from altgrad_cli.data.batches import Batch, TokenFile, draw_batch
from altgrad_cli.errors import CheckpointError
from altgrad_cli.quantization.precision import OPERAND_ROLES, plan_precision
from altgrad_cli.quantization.quantize import encode
from altgrad_cli.training.checkpoint import content_hash, plain_copy, write_checkpoint
from altgrad_cli.training.config_loading import resolve
from altgrad_cli.training.environment import describe_environment
from altgrad_cli.training.retention import anomaly_path
from altgrad_cli.training.state import TrainState, fresh_scales
from altgrad_cli.training.streams import fork


def take_snapshot(
    state: TrainState,
    monitors_state: Mapping[str, Any],
    *,
    streams_before: Mapping[str, Tensor] | None = None,
    kind: str = "regular",
    circumstances: Mapping[str, Any] | None = None,
    **extras: Any,
) -> dict[str, Any]:
    """A payload for ``write_checkpoint`` that shares no memory with ``state``.

    Args:
        monitors_state: counters and windows of monitors and interventions; plain values and tensors.
        streams_before: the random streams before the step's first draw; None takes them as they are.
        kind: ``regular``, ``best`` or ``anomaly``.
        circumstances: paths, W&B id and whatever else is no part of the state.
        extras: further keys: ``corpus``, ``injections``, ``history``, ``batch``, ...
    """
    config = resolve(state.config)
    flat = state.flat
    payload = {
        "kind": kind,
        "step": state.step,
        "adam_step": state.adam_step,
        "config": config,
        "config_hash": config_hash(config),
        "init_hash": state.init_hash,
        "format": state.format,
        "formats": [list(entry) for entry in state.formats],
        "weights": dict(zip(flat.names, flat.views(flat.values), strict=True)),
        "stored_weights": _stored_weights(state),
        "optimizer": {
            "m": dict(zip(flat.names, flat.views(state.adam.m), strict=True)),
            "v": dict(zip(flat.names, flat.views(state.adam.v), strict=True)),
        },
        "quantizers": _quantizers(state),
        "streams": dict(streams_before if streams_before is not None else state.streams.state_dict()),
        "monitors": monitors_state,
        "environment": describe_environment(state.device),
        "circumstances": {
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "arguments": list(sys.argv),
            **(circumstances or {}),
        },
        **extras,
    }
    copied: dict[str, Any] = plain_copy(payload)
    return copied


def config_hash(config: Mapping[str, Any]) -> str:
    """Short hash of a resolved configuration; equal for equal runs."""
    return content_hash(plain_copy(config))[:16]


def _stored_weights(state: TrainState) -> dict[str, Any]:
    stored = {}
    for index, (name, layer) in enumerate(state.layers):
        fmt, scale = state.stored_format(index), state.stored_scales[index]
        if fmt is not None and scale is not None:
            weight = layer.weight.detach()
            # A grid without a code for nan cannot encode one; the carrier keeps it.
            codes = encode(weight, fmt, scale) if fmt.has_nan or not weight.isnan().any() else None
            stored[name] = {"codes": codes, "scale": scale, "format": fmt.name}
    return stored


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
                    "scale": scales[index][number],
                    "history": None if history is None else list(history.values),
                }
            else:
                roles[role] = {
                    "format": fmt.name,
                    "description": fmt.describe(),
                    "scale": state.stored_scales[index],
                    "history": None,
                }
        described.append({"name": layer.name, "recipe": layer.recipe, "roles": roles})
    return described


@torch.no_grad()
def restore_snapshot(state: TrainState, payload: Mapping[str, Any]) -> None:
    """Put ``state``, freshly built from the payload's config, where the snapshot was taken.

    Raises:
        CheckpointError: the payload is of another network, or a part of it is missing.
    """
    try:
        _restore(state, payload)
    except (KeyError, TypeError, AttributeError, IndexError, ValueError, RuntimeError) as error:
        reason = f"{type(error).__name__} {error}".splitlines()[0]
        raise CheckpointError(f"the checkpoint lacks a part of the state: {reason}") from None


def _restore(state: TrainState, payload: Mapping[str, Any]) -> None:
    flat = state.flat
    optimizer = payload["optimizer"]
    for buffer, tensors in (
        (flat.values, payload["weights"]),
        (state.adam.m, optimizer["m"]),
        (state.adam.v, optimizer["v"]),
    ):
        if tuple(tensors) != flat.names and set(tensors) != set(flat.names):
            raise CheckpointError("the checkpoint is of another network: its parameters have other names")
        for name, view in zip(flat.names, flat.views(buffer), strict=True):
            if tensors[name].shape != view.shape or tensors[name].dtype != view.dtype:
                raise CheckpointError(f"the checkpoint is of another network: {name} has another shape")
            view.copy_(tensors[name])
    state.formats = [(int(step), str(name)) for step, name in payload["formats"]]
    regime = state.config.precision.regime
    if regime != "bf16":
        state.plan = plan_precision(state.config.precision, state.format, state.layer_names)
    state.scales = fresh_scales(state.plan, state.config)
    if [entry["name"] for entry in payload["quantizers"]] != state.layer_names:
        raise CheckpointError("the checkpoint is of another network: its layers have other names")
    for index, entry in enumerate(payload["quantizers"]):
        for number, role in enumerate(OPERAND_ROLES):
            history = state.scales.histories[index][number]
            saved = entry["roles"].get(role, {}).get("history")
            if (history is None) != (saved is None):
                raise CheckpointError(
                    f"the amax history of {entry['name']} ({role}) does not fit the configuration"
                )
            if history is not None:
                history.values = [float(value) for value in saved]
    stored = payload["stored_weights"]
    state.stored_scales = [
        float(stored[name]["scale"]) if state.stored_format(index) is not None else None
        for index, name in enumerate(state.layer_names)
    ]
    state.streams.load_state_dict(dict(payload["streams"]))
    state.init_hash = str(payload["init_hash"])
    state.step, state.adam_step = int(payload["step"]), int(payload["adam_step"])


def next_batch(state: TrainState, tokens: TokenFile) -> Batch:
    """The batch that the next step will draw; the stream stays where it is."""
    twin = fork(state.streams["data"])
    return draw_batch(tokens, state.config.batch_size, state.config.model.block_size, twin)


def batch_to_plain(batch: Batch) -> dict[str, Any]:
    """A batch as a payload keeps it."""
    return {"x": batch.x, "y": batch.y, "offsets": list(batch.offsets)}


def batch_from_plain(saved: Mapping[str, Any]) -> Batch:
    """The batch in a payload."""
    return Batch(x=saved["x"], y=saved["y"], offsets=tuple(int(offset) for offset in saved["offsets"]))


def write_anomaly(
    folder: Path,
    state: TrainState,
    monitors_state: Callable[[], Mapping[str, Any]] | Mapping[str, Any],
    *,
    failure: Mapping[str, Any],
    streams_before: Mapping[str, Tensor] | None,
    sections: Mapping[str, Callable[[], Any]],
    circumstances: Mapping[str, Any] | None = None,
) -> Path:
    """Write the forensic checkpoint of the step that is under way; ``state`` is as before it.

    Each of ``sections`` (``batch``, ``gradient``, ``trace``, ``history``, ...) is computed here; one that
    fails is left out and named with its reason under ``missing``: a failing capture costs no evidence.

    Args:
        failure: ``class`` (nonfinite, stall_collapse, request, ...), ``step`` (the number of the failing
            step), ``trigger`` and its numbers.

    Raises:
        OSError: nothing could be written.
    """
    missing: dict[str, str] = {}
    extras: dict[str, Any] = {}
    wanted: dict[str, Callable[[], Any]] = {
        **sections,
        "monitors": monitors_state if callable(monitors_state) else lambda: monitors_state,
    }
    for name, compute in wanted.items():
        try:
            extras[name] = plain_copy(compute(), name)
        except Exception as error:  # noqa: BLE001  whatever a capture does, the rest of the evidence is written
            missing[name] = f"{type(error).__name__}: {error}"
    monitors = extras.pop("monitors", {})
    payload = take_snapshot(
        state,
        monitors,
        streams_before=streams_before,
        kind="anomaly",
        circumstances=circumstances,
        failure=dict(failure),
        missing=missing,
        **extras,
    )
    path = anomaly_path(folder, int(failure["step"]))
    write_checkpoint(path, payload)
    return path


def named_gradient(state: TrainState, gradient: Tensor) -> dict[str, Tensor]:
    """A flat gradient by name of the parameter, for a payload."""
    return dict(zip(state.flat.names, state.flat.views(gradient), strict=True))


def changed_keys(saved: Mapping[str, Any], wanted: Mapping[str, Any], prefix: str = "") -> Sequence[str]:
    """Dotted keys in which two resolved configurations differ: a resume must name them as overrides."""
    changed: list[str] = []
    for key in sorted(set(saved) | set(wanted)):
        one, other = saved.get(key), wanted.get(key)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            changed += changed_keys(one, other, f"{prefix}{key}.")
        elif one != other:
            changed.append(f"{prefix}{key}")
    return changed
