"""The recorded step in a new process, tensor by tensor against the recorded trace."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from altgrad_cli.forensics.evidence import REPLAY_KEYS, Evidence
from altgrad_cli.training.trace_record import TraceRecord, from_plain

_TIME_LIMIT = 600
_PLACE = ("phase", "module", "role", "part")


@dataclass(frozen=True, slots=True)
class Replay:
    """What a replay showed. ``bit_exact`` is None where there was nothing to compare with."""

    ran: bool
    bit_exact: bool | None
    compared: int
    first_difference: Mapping[str, Any] | None
    different_inputs: tuple[str, ...]
    """What went into the step otherwise than recorded: a stream, an amax history, the batch, ..."""
    environment: Mapping[str, Any]
    """Parts of the environment that differ, recorded and replayed."""
    reason: str | None = None
    """Why it did not run."""
    compiled: bool = False
    """The step itself was compiled. Trace and replay are of its eager form, which is numerically close: sums
    can differ in their last bits, and an operand near a tie by a gap."""

    def to_json(self) -> dict[str, Any]:
        """The ``replay`` of the diagnosis."""
        return {
            "ran": self.ran,
            "bit_exact": self.bit_exact,
            "compared": self.compared,
            "first_difference": self.first_difference,
            "different_inputs": list(self.different_inputs),
            "environment_differences": dict(self.environment),
            "reason": self.reason,
            "compiled": self.compiled,
        }


def not_run(reason: str | None = None) -> Replay:
    """The replay of a diagnosis that was not asked for one, or could not make one."""
    return Replay(False, None, 0, None, (), {}, reason)


def replay(evidence: Evidence, threads: int | None = None) -> Replay:
    """Run the step in a new process and compare every recorded hash.

    Args:
        threads: torch's threads there; None takes those of the recorded configuration.
    """
    recorded = evidence.payload.get("trace")
    if not recorded:
        return not_run("the file holds no trace of the step to compare with")
    command = [sys.executable, "-m", "altgrad_cli.forensics.replay_process", str(evidence.path.resolve())]
    if threads is not None:
        command.append(str(threads))
    package_root = str(Path(__file__).resolve().parents[2])
    paths = [package_root, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_TIME_LIMIT, env=environment, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return not_run(f"the replaying process did not finish: {type(error).__name__}")
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        return not_run(f"the replaying process failed: {lines[-1] if lines else done.returncode}")
    answer = json.loads(done.stdout.splitlines()[-1])
    there: Mapping[str, Any] = answer["environment"]
    here: Mapping[str, Any] = evidence.payload.get("environment") or {}
    different = {
        key: {"recorded": here.get(key), "replayed": there.get(key)}
        for key in REPLAY_KEYS
        if here.get(key) != there.get(key)
    }
    found = compare(from_plain(recorded), answer["records"], different)
    return dataclasses.replace(found, compiled=evidence.config.runtime.compile)


def compare(
    recorded: Sequence[TraceRecord], replayed: Sequence[Mapping[str, Any]], environment: Mapping[str, Any]
) -> Replay:
    """The verdict on two traces: every recorded place by its hash, in the order recorded."""
    again = _by_place([({key: record[key] for key in _PLACE}, record) for record in replayed])
    mine = _by_place([({key: getattr(record, key) for key in _PLACE}, record) for record in recorded])
    first: dict[str, Any] | None = None
    inputs: list[TraceRecord] = []
    for (place, _), record in mine.items():
        other = again.get((place, _))
        if other is not None and other["hash"] == record.hash:
            continue
        if first is None:
            first = {
                **dict(zip(_PLACE, place, strict=True)),
                "recorded_hash": record.hash,
                "replayed_hash": None if other is None else other["hash"],
                "recorded_amax": record.amax,
                "replayed_amax": None if other is None else other["amax"],
            }
        if record.phase == "state":
            inputs.append(record)
    words = tuple(dict.fromkeys(_input_words(record) for record in inputs))
    if first is not None:
        first["cause"] = _cause(words, environment)
    return Replay(True, first is None, len(recorded), first, words, environment)


def _by_place(records: Sequence[tuple[dict[str, str], Any]]) -> dict[tuple[tuple[str, ...], int], Any]:
    """Records by place and by how many of that place came before."""
    found: dict[tuple[tuple[str, ...], int], Any] = {}
    for place, record in records:
        key, number = tuple(place.values()), 0
        while (key, number) in found:
            number += 1
        found[key, number] = record
    return found


def _input_words(record: TraceRecord) -> str:
    if record.module == "batch":
        return "batch"
    if record.module == "streams":
        return f"random stream {record.role}"
    kind = {"amax_history": "amax history", "optimizer_state": "optimizer state", "stored_weights": "weights"}
    part = f" ({record.part})" if record.part else ""
    return f"{kind.get(record.role, record.role)} of {record.module}{part}"


def _cause(inputs: Sequence[str], environment: Mapping[str, Any]) -> str:
    if inputs:
        more = f" and {len(inputs) - 1} other inputs" if len(inputs) > 1 else ""
        return f"the step was given another {inputs[0]}{more}"
    if environment:
        return "not the same environment: other " + ", ".join(environment)
    return "unknown: all inputs are as recorded"
