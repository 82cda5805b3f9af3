"""Diagnoses many checkpoints in this one process: [path, subject] pairs as JSON in, one answer each out.

What ``altgrad diagnose-checkpoint PATH --subject M:F`` does, and the comparison that ``--replay`` makes in a
process that it starts for each file alone.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from altgrad_cli.forensics.diagnosis import Questions, diagnose
from altgrad_cli.forensics.document import Diagnosis
from altgrad_cli.forensics.opened import OpenedCheckpoint, open_checkpoint
from altgrad_cli.forensics.step_again.replay import compare
from altgrad_cli.forensics.step_again.replay_state import rebuild


def answer(path: Path, subject: str) -> dict[str, object]:
    said = diagnose(path, Questions(subject=subject))
    assert isinstance(said, Diagnosis) and said.first_nonfinite is not None
    opened = open_checkpoint(path)
    assert isinstance(opened, OpenedCheckpoint)
    again = compare(opened.saved.trace, rebuild(opened, None, subject).trace(), {})
    first = said.first_nonfinite
    return {
        "place": [first.module, first.role, first.phase, str(first.value)],
        "bit_exact": again.bit_exact,
        "compared": again.compared,
        "first_difference": str(again.first_difference),
    }


if __name__ == "__main__":
    for path, subject in json.load(sys.stdin):
        print(json.dumps(answer(Path(path), subject)), flush=True)  # noqa: T201
