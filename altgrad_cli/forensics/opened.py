"""Opens what is to be diagnosed, and says how far it can be trusted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from altgrad_cli.checkpoints.file import SCHEMA
from altgrad_cli.checkpoints.foreign import ForeignTensors, open_file
from altgrad_cli.checkpoints.payload import Checkpoint, Injections, Scalar
from altgrad_cli.config.loading import from_plain
from altgrad_cli.config.run import TrainConfig
from altgrad_cli.errors import CheckpointError, UsageError
from altgrad_cli.formats import parse_format
from altgrad_cli.rounding.codes import dequantize
from altgrad_cli.rounding.grid import stored_grid
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
    "subject_source",
)
"""Parts of the environment that the bits of a step can depend on."""
ANOMALY_SECTIONS = ("batch", "gradient", "trace", "history")


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
    created: object
    revision: Scalar
    config_hash: str
    same_environment: bool
    environment_differences: Mapping[str, Mapping[str, Scalar]]
    replay_expected_exact: bool
    injected: Injections
    codes_agree: bool | None
    """Whether stored codes and float32 carrier are one and the same; None without stored weights."""


@dataclass(frozen=True, slots=True)
class OpenedCheckpoint:
    """A checkpoint that altgrad wrote, verified."""

    path: Path
    saved: Checkpoint
    config: TrainConfig

    @property
    def step(self) -> int:
        """Number of the step that the checkpoint stands before."""
        return self.saved.step + 1

    @property
    def run_folder(self) -> Path | None:
        """The run's folder, where the file still lies in its ``checkpoints``."""
        folder = self.path.resolve().parent
        return folder.parent if folder.name == "checkpoints" else None


def open_checkpoint(path: Path) -> OpenedCheckpoint | ForeignTensors:
    """The checkpoint at ``path``, or the tensors of a PyTorch or safetensors state dict.

    Raises:
        CheckpointError: the file cannot be trusted or holds no tensors; nothing in it was run.
    """
    opened = open_file(path)
    if isinstance(opened, ForeignTensors):
        return opened
    saved = Checkpoint.from_plain(opened, str(path))
    try:
        config = from_plain(saved.config, source=path.name)
    except UsageError as error:
        raise CheckpointError(
            f"the checkpoint's configuration is not valid: {error.message}",
            where=error.where or str(path),
        ) from None
    return OpenedCheckpoint(path, saved, config)


def trust_report(opened: OpenedCheckpoint, subject: str | None = None) -> Trust:
    """Schema, checks passed, what is missing, how this environment differs, planted faults.

    ``subject`` is the user's own that the command line named, and that was loaded.
    """
    saved = opened.saved
    recorded = saved.environment
    here = describe_environment(
        "cuda" if recorded.get("device") == "cuda" and torch.cuda.is_available() else "cpu", subject=subject
    )
    here["threads"] = opened.config.runtime.threads  # a replay sets them
    different = environment_differences(recorded, here, "here")
    missing = dict(saved.missing)
    if saved.kind == "anomaly":
        for name in ANOMALY_SECTIONS:
            if getattr(saved, name) is None:
                missing.setdefault(name, "not in the file")
    return Trust(
        schema=SCHEMA,
        verified=("seal", "record checksums", "content hash"),
        kind=saved.kind,
        complete=not missing,
        missing=missing,
        created=saved.metadata.get("created"),
        revision=recorded.get("revision"),
        config_hash=saved.config_hash,
        same_environment=not different,
        environment_differences=different,
        replay_expected_exact=not different,
        injected=replace(saved.injections, planned=opened.config.inject),
        codes_agree=_codes_agree(saved),
    )


def environment_differences(
    recorded: Mapping[str, Scalar], other: Mapping[str, Scalar], name: str
) -> dict[str, dict[str, Scalar]]:
    """Parts of the environment that differ: key -> ``recorded`` and, under ``name``, that of the other."""
    return {
        key: {"recorded": recorded.get(key), name: other.get(key)}
        for key in REPLAY_KEYS
        if recorded.get(key) != other.get(key)
        and (key != "subject_source" or recorded.get(key) is not None)  # older files do not say
    }


def _codes_agree(saved: Checkpoint) -> bool | None:
    for name, stored in saved.stored_weights.items():
        carrier = saved.weights.get(f"{name}.weight")
        if stored.codes is None or carrier is None:
            continue
        grid, scales = stored_grid(parse_format(stored.format)), torch.as_tensor(stored.scale).double()
        spread = grid.spread(scales, stored.codes.shape)
        if not bool((dequantize(stored.codes, grid.element, spread) == carrier).all()):
            return False
    return True if saved.stored_weights else None
