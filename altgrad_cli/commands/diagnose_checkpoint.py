"""`altgrad diagnose-checkpoint`: what failed, where first, why, and what would have saved it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from altgrad_cli.commands.arguments import complete_format
from altgrad_cli.commands.console import data_console, print_json, say, talk_console
from altgrad_cli.errors import UsageError
from altgrad_cli.files import check_outputs, write_whole

EXAMPLES = (
    "altgrad diagnose-checkpoint runs/my_run",
    "altgrad diagnose-checkpoint anomaly_step_53.pt --replay --what-if",
    "altgrad diagnose-checkpoint anomaly_step_53.pt --against runs/bf16_baseline",
    "altgrad diagnose-checkpoint nan.pt --format E5M2",
    "altgrad diagnose-checkpoint model.safetensors --subject my_model:make --what-if",
    "altgrad diagnose-checkpoint anomaly_step_53.pt --markdown autopsy.md --json",
)


def diagnose_checkpoint(
    file: Annotated[
        Path,
        typer.Argument(
            help="A checkpoint of altgrad (or a run's folder: its first anomaly), or any PyTorch or "
            "safetensors state dict."
        ),
    ],
    replay: Annotated[
        bool,
        typer.Option("--replay", help="Repeat the step in a new process, bit for bit against the trace."),
    ] = False,
    what_if: Annotated[
        bool,
        typer.Option("--what-if", help="Repeat the step under every format, rounding, scaling and remedy."),
    ] = False,
    against: Annotated[
        Path | None,
        typer.Option("--against", metavar="RUN", help="Put a control run beside it, at the same step."),
    ] = None,
    format: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="NAME",
            help="The format to judge a foreign state dict by.",
            autocompletion=complete_format,
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data", metavar="PATH", help="The run's corpus; a path in the file is never followed."
        ),
    ] = None,
    subject: Annotated[
        str | None,
        typer.Option(
            "--subject",
            metavar="M:F",
            help="Your own model, of the run or for a state dict; a file loads no code.",
        ),
    ] = None,
    layer: Annotated[
        str | None, typer.Option("--layer", metavar="NAME", help="Only layers whose name contains NAME.")
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option("--threads", min=1, help="Threads of the replay; by default those of the run."),
    ] = None,
    markdown: Annotated[
        Path | None, typer.Option("--markdown", metavar="FILE", help="Write the diagnosis as Markdown too.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the Markdown file if it exists.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Everything as one JSON document on stdout.")] = False,
) -> None:
    """Say from a checkpoint alone what failed, where first, why, and what would have saved it.

    The file is untrusted input: nothing in it is run, and a damaged one is refused with exit code 2. A
    diagnosed failure is a result: the exit code is 0.
    """
    check_outputs(("--markdown", markdown), force=force)
    from altgrad_cli.forensics.diagnosis import Questions, diagnose
    from altgrad_cli.forensics.document import SCHEMA
    from altgrad_cli.reporting.pages.diagnosis.page import diagnosis_page
    from altgrad_cli.reporting.render.markdown import to_markdown
    from altgrad_cli.reporting.render.terminal import renderables

    questions = Questions(
        replay=replay,
        what_if=what_if,
        against=against,
        format=format,
        data=data,
        subject=subject,
        layer=layer,
        threads=threads,
    )
    if what_if and talk_console().is_terminal:
        talk_console().print("repeating the step under some 80 changes ...", style="dim")
    diagnosis = diagnose(_checkpoint_of(file), questions)
    page = diagnosis_page(diagnosis)
    if markdown is not None:
        write_whole(markdown, to_markdown(page, beside=None))
        say(f"markdown: {markdown}")
    if json:
        print_json(SCHEMA, diagnosis.to_json())
    else:
        console = data_console()
        for item in renderables(page):
            console.print(item)


def _checkpoint_of(path: Path) -> Path:
    """``path``; where it is a run's folder, its first forensic checkpoint, else its newest of any kind."""
    from altgrad_cli.checkpoints.retention import anomaly_checkpoints, regular_checkpoints
    from altgrad_cli.runs.folder import EVENTS, RunDirectory

    if not (path / EVENTS).is_file():
        return path
    folder = RunDirectory(path).checkpoints
    candidates = anomaly_checkpoints(folder) or regular_checkpoints(folder)[-1:]
    if not candidates:
        raise UsageError(
            f"{path} holds no checkpoint", hint=f"altgrad report {shlex.quote(str(path))} reads its log"
        )
    say(f"checkpoint: {candidates[0]}")
    return candidates[0]
