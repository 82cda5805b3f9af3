"""Opens what is to be diagnosed, and says how far it can be trusted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from altgrad_cli.checkpoints.file import SCHEMA
from altgrad_cli.checkpoints.foreign import ForeignTensors, open_file
from altgrad_cli.checkpoints.payload_shape import check_payload
from altgrad_cli.config.loading import from_plain
from altgrad_cli.config.run import TrainConfig
from altgrad_cli.errors import CheckpointError, UsageError
from altgrad_cli.formats import parse_format
from altgrad_cli.rounding.quantize import dequantize
from altgrad_cli.training.environment import describe_environment

REPLAY_KEYS = (
    "torch",
    "numpy",
    "machine",
    "cpu_capability",
    "device",
    "threads",
    "flush_denormal",
    "altgrad",
)
"""Parts of the environment that the bits of a step can depend on."""
ANOMALY_SECTIONS = ("batch", "gradient", "trace", "history")


Scalar = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Injections:
    """Planted faults."""

    planned: tuple[str, ...]
    struck: tuple[Mapping[str, Scalar], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Trust:
    """How far an opened file can be trusted. None where a file of another program does not say."""

    schema: str
    verified: tuple[str, ...]
    """The checks that the file passed."""
    kind: str
    complete: bool
    missing: Mapping[str, str]
    """Parts that the file lacks, and why."""
    created: Scalar
    revision: Scalar
    config_hash: str
    same_environment: bool
    environment_differences: Mapping[str, Mapping[str, Scalar]]
    replay_expected_exact: bool
    injected: Injections
    codes_agree: bool | None
    """Whether stored codes and float32 carrier are one and the same; None without stored weights."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """A checkpoint that altgrad wrote, verified."""

    path: Path
    payload: dict[str, Any]
    config: TrainConfig

    @property
    def step(self) -> int:
        """Number of the step that the checkpoint stands before."""
        return int(self.payload["step"]) + 1

    @property
    def injections(self) -> Injections:
        """Planted faults: those planned, and what struck."""
        saved = self.payload.get("injections") or {}
        return Injections(self.config.inject, tuple(saved.get("struck", ())))

    @property
    def run_folder(self) -> Path | None:
        """The run's folder, where the file still lies in its ``checkpoints``."""
        folder = self.path.resolve().parent
        return folder.parent if folder.name == "checkpoints" else None


def open_evidence(path: Path) -> Evidence | ForeignTensors:
    """The checkpoint at ``path``, or the tensors of a PyTorch or safetensors state dict.

    Raises:
        CheckpointError: the file cannot be trusted or holds no tensors; nothing in it was run.
    """
    opened = open_file(path)
    if isinstance(opened, ForeignTensors):
        return opened
    check_payload(opened, str(path))
    try:
        config = from_plain(opened["config"], source=path.name)
    except UsageError as error:
        raise CheckpointError(
            f"the checkpoint's configuration is not valid: {error.message}",
            where=error.where or str(path),
        ) from None
    return Evidence(path, opened, config)


def trust_report(evidence: Evidence) -> Trust:
    """Schema, checks passed, what is missing, how this environment differs, planted faults."""
    payload = evidence.payload
    saved = payload.get("environment") or {}
    here = describe_environment(
        "cuda" if saved.get("device") == "cuda" and torch.cuda.is_available() else "cpu"
    )
    here["threads"] = evidence.config.runtime.threads  # a replay sets them
    missing: dict[str, str] = dict(payload.get("missing") or {})
    if payload.get("kind") == "anomaly":
        missing |= {
            name: "not in the file"
            for name in ANOMALY_SECTIONS
            if name not in payload and name not in missing
        }
    different = {
        key: {"recorded": saved.get(key), "here": here.get(key)}
        for key in REPLAY_KEYS
        if saved.get(key) != here.get(key)
    }
    return Trust(
        schema=SCHEMA,
        verified=("seal", "record checksums", "content hash"),
        kind=payload["kind"],
        complete=not missing,
        missing=missing,
        created=(payload.get("circumstances") or {}).get("created"),
        revision=saved.get("revision"),
        config_hash=payload["config_hash"],
        same_environment=not different,
        environment_differences=different,
        replay_expected_exact=not different,
        injected=evidence.injections,
        codes_agree=_codes_agree(payload),
    )


def _codes_agree(payload: Mapping[str, Any]) -> bool | None:
    stored = payload.get("stored_weights") or {}
    if not stored:
        return None
    for name, entry in stored.items():
        carrier = payload["weights"].get(f"{name}.weight")
        if entry["codes"] is None or carrier is None:
            continue
        if not bool(
            (dequantize(entry["codes"], parse_format(entry["format"]), entry["scale"]) == carrier).all()
        ):
            return False
    return True
