"""The process in which a replay runs: a verified checkpoint's payload in on stdin, one line of JSON out."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path


def main() -> int:
    """Trace the step of the checkpoint and write its records and the environment to stdout."""
    import torch

    from altgrad_cli.checkpoints.payload import Checkpoint, to_plain
    from altgrad_cli.config.loading import from_plain
    from altgrad_cli.errors import AltgradError
    from altgrad_cli.forensics.opened import OpenedCheckpoint
    from altgrad_cli.forensics.step_again.replay_state import rebuild
    from altgrad_cli.training.environment import describe_environment
    from altgrad_cli.training.events import to_json_value

    payload = torch.load(io.BytesIO(sys.stdin.buffer.read()), weights_only=True)
    path = Path("the replayed checkpoint")
    saved = Checkpoint.from_plain(payload, str(path))
    try:
        given = rebuild(OpenedCheckpoint(path, saved, from_plain(saved.config)))
        records = to_plain(given.trace())
    except AltgradError as error:
        sys.stderr.write(f"{error.message}\n")
        return error.exit_code
    answer = {"records": records, "environment": describe_environment(given.state.device)}
    sys.stdout.write(json.dumps(to_json_value(answer)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
