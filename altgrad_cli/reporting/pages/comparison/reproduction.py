"""The commands that make a comparison again."""

from __future__ import annotations

import shlex
from pathlib import Path

from altgrad_cli.config.loading import changes, resolve
from altgrad_cli.config.run import TrainConfig
from altgrad_cli.reporting.blocks.document import Section, Text, Verbatim
from altgrad_cli.reporting.evidence.scope import Scope
from altgrad_cli.runs.folder import SWEEP, read_json
from altgrad_cli.sweeps.results import is_sweep


def reproduction(scope: Scope) -> Section:
    """The sweep's command line where there was one, the report's, and what the logs say of the machine."""
    n = scope.evidence.of(scope.runs[0])
    commands = [sweep_command(Path(path)) for path in scope.logs if is_sweep(Path(path))]
    commands.append(f"altgrad report {' '.join(map(shlex.quote, scope.logs))}")
    text = (
        f"Corpus {n('corpus.fingerprint')} ({n('corpus.source')}, tokenizer {n('corpus.tokenizer')}), "
        f"program {n('environment.revision')}, torch {n('environment.torch')}, device "
        f"{n('environment.device')}, threads {n('environment.threads')}, initial weights {n('init_hash')}."
    )
    return Section("How to reproduce", (Text(text), Verbatim("\n".join(commands), "sh")))


def sweep_command(path: Path) -> str:
    """The command line that the sweep in ``path`` was started with, as far as it made a difference."""
    spec = read_json(path / SWEEP).get("spec", {})
    words = ["altgrad", "sweep", "--order", ",".join(spec.get("order", ())).lower()]
    if len(spec.get("seeds", ())) > 1:
        words += ["--seeds", ",".join(map(str, spec["seeds"]))]
    for key, values in spec.get("axes", ()):
        words += ["--set", f"{key}={','.join(values)}"]
    words += [] if spec.get("retries", True) else ["--no-retries"]
    words += ["--with-interventions"] if spec.get("with_interventions") else []
    words += ["--attribute"] if spec.get("attribute") else []
    changed = changes(resolve(TrainConfig()), spec.get("base", {}))
    words += [f"{key}={word}" for key, word in changed.items()]
    return " ".join(map(shlex.quote, words))
