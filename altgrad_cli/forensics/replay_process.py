"""The process in which a replay runs: FILE [THREADS] in, one line of JSON out."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path


def main(arguments: list[str]) -> int:
    """Trace the step of the checkpoint and write its records and the environment to stdout."""
    from altgrad_cli.checkpoints.foreign import ForeignTensors
    from altgrad_cli.errors import AltgradError
    from altgrad_cli.forensics.evidence import open_evidence
    from altgrad_cli.forensics.scene import rebuild
    from altgrad_cli.forensics.trace_again import trace_again
    from altgrad_cli.training.environment import describe_environment
    from altgrad_cli.training.events import to_json_value
    from altgrad_cli.training.trace_record import to_plain

    try:
        evidence = open_evidence(Path(arguments[0]))
        if isinstance(evidence, ForeignTensors):
            sys.stderr.write("not an altgrad checkpoint\n")
            return 2
        if len(arguments) > 1:
            runtime = dataclasses.replace(evidence.config.runtime, threads=int(arguments[1]))
            evidence = dataclasses.replace(
                evidence, config=dataclasses.replace(evidence.config, runtime=runtime)
            )
        scene = rebuild(evidence)
        records = to_plain(trace_again(scene))
    except AltgradError as error:
        sys.stderr.write(f"{error.message}\n")
        return error.exit_code
    answer = {"records": records, "environment": describe_environment(scene.state.device)}
    sys.stdout.write(json.dumps(to_json_value(answer)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
