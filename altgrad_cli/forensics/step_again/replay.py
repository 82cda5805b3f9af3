"""The recorded step in a new process, tensor by tensor against the recorded trace.

The process runs this module: a verified checkpoint's payload in on stdin, one line of JSON out.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from altgrad_cli.checkpoints.payload import Checkpoint, Scalar, TraceRecord, to_plain
from altgrad_cli.config.loading import from_plain, resolve
from altgrad_cli.errors import AltgradError
from altgrad_cli.forensics.opened import OpenedCheckpoint, environment_differences
from altgrad_cli.forensics.step_again.replay_state import rebuild
from altgrad_cli.training.environment import describe_environment, ranks_of
from altgrad_cli.training.events import from_json_value, to_json_value

_TIME_LIMIT = 600


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """The first tensor that came out otherwise than recorded; None where the replay has no such tensor."""

    phase: str
    module: str
    role: str
    part: str
    recorded_hash: str
    replayed_hash: str | None
    recorded_amax: float
    replayed_amax: float | None
    cause: str


@dataclass(frozen=True, slots=True)
class Replay:
    """What a replay showed. ``bit_exact`` is None where there was nothing to compare with."""

    ran: bool
    bit_exact: bool | None
    compared: int
    first_difference: Difference | None
    different_inputs: tuple[str, ...]
    """What went into the step otherwise than recorded: a stream, an amax history, the batch, ..."""
    environment_differences: Mapping[str, Mapping[str, Scalar]]
    """Parts of the environment that differ, recorded and replayed."""
    reason: str | None = None
    """Why it did not run."""
    compiled: bool = False
    """The step itself was compiled. Trace and replay are of its eager form, which is numerically close: sums
    can differ in their last bits, and an operand near a tie by a gap."""
    ranks: int = 1
    """Of several ranks trace and replay are of the step as one process takes it, as close numerically."""


def not_run(reason: str | None = None) -> Replay:
    """The replay of a diagnosis that was not asked for one, or could not make one."""
    return Replay(False, None, 0, None, (), {}, reason)


def replay(
    opened: OpenedCheckpoint,
    threads: int | None = None,
    *,
    data: str | None = None,
    subject: str | None = None,
) -> Replay:
    """Run the step in a new process and compare every recorded hash.

    Args:
        threads: torch's threads there; None takes those of the recorded configuration.
        data, subject: what the user names, as for ``rebuild``.
    """
    recorded = opened.saved.trace
    if not recorded:
        return not_run("the file holds no trace of the step to compare with")
    command = [sys.executable, "-m", "altgrad_cli.forensics.step_again.replay", data or "", subject or ""]
    package_root = str(Path(__file__).resolve().parents[3])
    paths = [package_root, *filter(None, [os.environ.get("PYTHONPATH")])]
    config = opened.config
    if threads is not None:
        config = replace(config, runtime=replace(config.runtime, threads=threads))
    # The state that was verified here is sent, so that no file is read twice.
    sent = io.BytesIO()
    torch.save(to_plain(replace(opened.saved, config=resolve(config))), sent)
    try:
        done = subprocess.run(
            command,
            input=sent.getvalue(),
            capture_output=True,
            timeout=_TIME_LIMIT,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return not_run(f"the replaying process did not finish: {type(error).__name__}")
    if done.returncode != 0:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        return not_run(f"the replaying process failed: {lines[-1] if lines else done.returncode}")
    answer = json.loads(done.stdout.splitlines()[-1])
    different = environment_differences(opened.saved.environment, answer["environment"], "replayed")
    replayed = tuple(TraceRecord(**record) for record in from_json_value(answer["records"]))
    of_step = compare(recorded, replayed, different)
    return replace(of_step, compiled=config.runtime.compile, ranks=ranks_of(opened.saved.environment))


def compare(
    recorded: Sequence[TraceRecord],
    replayed: Sequence[TraceRecord],
    environment: Mapping[str, Mapping[str, Scalar]],
) -> Replay:
    """The verdict on two traces: every recorded place by its hash, in the order recorded."""
    again = _by_place(replayed)
    pairs = [(record, again.get(place)) for place, record in _by_place(recorded).items()]
    different = [(record, other) for record, other in pairs if other is None or other.hash != record.hash]
    inputs = [_input_words(record) for record, _ in different if record.phase == "state"]
    words = tuple(dict.fromkeys(inputs))
    if not different:
        return Replay(True, True, len(recorded), None, words, environment)
    record, other = different[0]
    first = Difference(
        phase=record.phase,
        module=record.module,
        role=record.role,
        part=record.part,
        recorded_hash=record.hash,
        replayed_hash=None if other is None else other.hash,
        recorded_amax=record.amax,
        replayed_amax=None if other is None else other.amax,
        cause=_cause(words, environment),
    )
    return Replay(True, False, len(recorded), first, words, environment)


def _by_place(records: Sequence[TraceRecord]) -> dict[tuple[str, str, str, str, int], TraceRecord]:
    """Records by place and by how many of that place came before."""
    before: Counter[tuple[str, str, str, str]] = Counter()
    by_place: dict[tuple[str, str, str, str, int], TraceRecord] = {}
    for record in records:
        place = (record.phase, record.module, record.role, record.part)
        by_place[*place, before[place]] = record
        before[place] += 1
    return by_place


def _input_words(record: TraceRecord) -> str:
    if record.module == "batch":
        return "batch"
    if record.module == "streams":
        return f"random stream {record.role}"
    kind = {"amax_history": "amax history", "optimizer_state": "optimizer state", "stored_weights": "weights"}
    part = f" ({record.part})" if record.part else ""
    return f"{kind.get(record.role, record.role)} of {record.module}{part}"


def _cause(inputs: Sequence[str], environment: Mapping[str, object]) -> str:
    if inputs:
        more = f" and {len(inputs) - 1} other inputs" if len(inputs) > 1 else ""
        return f"the step was given another {inputs[0]}{more}"
    if environment:
        return "not the same environment: other " + ", ".join(environment)
    return "unknown: all inputs are as recorded"


def main() -> int:
    """Trace the step of the checkpoint on stdin and write its records and the environment to stdout."""
    payload = torch.load(io.BytesIO(sys.stdin.buffer.read()), weights_only=True)
    path = Path("the replayed checkpoint")
    saved = Checkpoint.from_plain(payload, str(path))
    try:
        data, subject = (word or None for word in sys.argv[1:3])
        given = rebuild(OpenedCheckpoint(path, saved, from_plain(saved.config)), data, subject)
        records = to_plain(given.trace())
    except AltgradError as error:
        sys.stderr.write(f"{error.message}\n")
        return error.exit_code
    answer = {"records": records, "environment": describe_environment(given.state.device, subject=subject)}
    sys.stdout.write(json.dumps(to_json_value(answer)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
