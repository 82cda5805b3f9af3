"""`altgrad train`: one run, watched, logged, resumable."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from altgrad_cli.commands.arguments import complete_arguments, split_config_and_overrides
from altgrad_cli.commands.console import Output, data_console, print_json, talk_console
from altgrad_cli.commands.failures import COLLAPSED, FAILED, INTERRUPTED, OK, exit_code_of
from altgrad_cli.commands.plan_view import show_train_plan
from altgrad_cli.errors import AltgradError, UsageError
from altgrad_cli.notation import decimals

if TYPE_CHECKING:
    from altgrad_cli.config.run import TrainConfig
    from altgrad_cli.runs.folder import RunDirectory
    from altgrad_cli.runs.loggers.listener import Listener
    from altgrad_cli.runs.record import RunRecord
    from altgrad_cli.runs.resumption import Resumption
    from altgrad_cli.training.events import Event

SCHEMA = "altgrad.train/1"

EXAMPLES = (
    "altgrad train e7m0_uniform",
    "altgrad train e3m4_uniform max_steps=1000 --name e3m4-long",
    "altgrad train fp8_format=E5M2 precision.rounding=stochastic",
    "altgrad train smoke --inject nan@5:blocks.0.attn.c_attn:gradients",
    "altgrad train e5m2_fp8 --wandb offline",
    "altgrad train --resume runs/e7m0_uniform",
    "altgrad train --resume runs/e7m0_uniform precision.rounding=stochastic",
    "altgrad train my.yaml --dry-run",
)


def train(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="CONFIG|KEY=VALUE",
            help="A shipped config (see altgrad configs) or a file, and overrides.",
            autocompletion=complete_arguments,
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The run's folder (default: runs/NAME).")
    ] = None,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="The run's name (default: the config's).")
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Go on with an interrupted run from its last checkpoint."),
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or mps.")] = None,
    compile: Annotated[
        bool, typer.Option("--compile", help="Compile quantizer and model with torch.")
    ] = False,
    inject: Annotated[
        list[str] | None,
        typer.Option(metavar="KIND@STEP[:MODULE[:ROLE]]", help="Plant a fault; may be repeated."),
    ] = None,
    capture_at: Annotated[
        str | None, typer.Option(metavar="STEP,STEP", help="Write forensic checkpoints before these updates.")
    ] = None,
    wandb: Annotated[str | None, typer.Option(help="Weights & Biases: online, offline or disabled.")] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit 3 also if an alert is still raised at the end.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the resolved config, the predicted stall and the time.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="The result as one JSON document on stdout.")] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="No progress.")] = False,
) -> int:
    """Train one model with every chosen tensor on an 8-bit grid, measuring at every step.

    Ctrl-C stops after the step with a checkpoint; SIGUSR1 asks for a forensic checkpoint of a running run.
    """
    from altgrad_cli.config.loading import load_config
    from altgrad_cli.runs.folder import RUNS, check_name, create_run, safe_name, sole_writer, unused_path

    config_name, overrides = split_config_and_overrides(arguments or ())
    overrides += [f"runtime.device={device}"] if device else []
    overrides += ["runtime.compile=true"] if compile else []
    overrides += [f"inject=[{','.join(repr(fault) for fault in inject)}]"] if inject else []
    overrides += [f"runtime.capture_at={capture_at}"] if capture_at else []
    overrides += [f"wandb.mode={wandb}"] if wandb else []
    output = Output(as_json=json, quiet=quiet, strict=strict)
    if resume is not None:
        if out or name:
            raise UsageError(
                "a resumed run keeps its folder", where="--resume", hint="leave out --out and --name"
            )
        return _resume(resume, config_name, overrides, output, dry_run=dry_run)
    config = load_config(config_name, overrides)
    stem = check_name(name) if name else safe_name(Path(config_name or "base").stem)
    if dry_run:
        show_train_plan(config, out or RUNS / stem, as_json=json)
        return OK
    if out is not None:
        directory = create_run(out, config)
    elif name is not None:
        directory = create_run(RUNS / stem, config, where="--name")
    else:
        directory = create_run(unused_path(RUNS, stem), config)
    listeners = [_Announcement(config, directory)] if config_name is None and not quiet else []
    with sole_writer(directory):
        return _train(config, directory, output, listeners=listeners)


class _Announcement:
    """Says what a command line without a configuration does, before its first step and after every check."""

    def __init__(self, config: TrainConfig, directory: RunDirectory) -> None:
        corpus = config.data.path or config.data.hub or "the embedded legal text"
        self._text = (
            f"no config given, so this is base: {config.max_steps} steps of {config.fp8_format}"
            f" {config.precision.regime} on {corpus}, into {directory.path} (Ctrl-C stops it;"
            " --dry-run shows every key without training)"
        )

    def receive(self, event: Event) -> None:
        """Speak once, at the start."""
        if event.kind == "run_started":
            talk_console().print(self._text, soft_wrap=True)

    def close(self) -> None:
        """Nothing to close."""


def _resume(
    path: Path, config_name: str | None, overrides: list[str], output: Output, *, dry_run: bool
) -> int:
    from altgrad_cli.runs.folder import open_run, sole_writer

    directory = open_run(path)
    # The lock first: a run that is being written is refused at once, before anything of it is read.
    with nullcontext() if dry_run else sole_writer(directory, wait_seconds=1):
        from altgrad_cli.runs.resumption import plan_resumption

        resumption = plan_resumption(directory, config_name, overrides)
        if dry_run:
            show_train_plan(resumption.config, directory.path, as_json=output.as_json)
            return OK
        console = talk_console()
        if resumption.ended:
            console.print(Text(f"{path} has ended; overrides would let it go on"), soft_wrap=True)
            return _conclude(directory, output, ended=True)
        for warning in resumption.warnings():
            console.print(Text(f"warning: {warning}"), soft_wrap=True)
        if resumption.changed and not output.quiet:
            changed = " ".join(resumption.changed)
            console.print(Text(f"after step {resumption.step} with {changed}"), soft_wrap=True)
        return _train(resumption.config, directory, output, resume=resumption)


def _train(
    config: TrainConfig,
    directory: RunDirectory,
    output: Output,
    *,
    resume: Resumption | None = None,
    listeners: Sequence[Listener] = (),
) -> int:
    from altgrad_cli.runs.folder import discard_unstarted
    from altgrad_cli.runs.loggers.live import LiveView
    from altgrad_cli.runs.loggers.wandb import wandb_circumstances, wandb_listeners
    from altgrad_cli.runs.loggers.warnings import warnings_as_lines
    from altgrad_cli.runs.run import carry_out
    from altgrad_cli.runs.signals import RunSignals

    console = talk_console()
    view = LiveView(console, config.max_steps, quiet=output.quiet)
    to_wandb = wandb_listeners(config, directory, warn=lambda text: view.say(text, "yellow"))
    reports: list[Path] = []
    faults: list[Exception] = []

    def report(ended: object) -> None:
        try:
            reports.extend(_write_report(config, directory.path))
        except Exception as fault:  # noqa: BLE001 - the run is whole without it; the fault is told at the end
            faults.append(fault)

    try:
        with (
            warnings_as_lines(view.warn),
            RunSignals(on_stop=lambda: view.say("stopping after this step")) as signals,
        ):
            ended = carry_out(
                config,
                directory,
                [*listeners, view, *to_wandb],
                resume=resume,
                stop_requested=signals.stop_requested,
                capture_requested=signals.capture_requested,
                circumstances=wandb_circumstances(to_wandb),
                on_end=report,
            )
    except AltgradError:
        if resume is None:
            discard_unstarted(directory)
        raise
    report_path = reports[0] if reports else None
    return _conclude(directory, output, ended=ended is not None, faults=faults, report=report_path)


def _conclude(
    directory: RunDirectory,
    output: Output,
    *,
    ended: bool,
    faults: Sequence[Exception] = (),
    report: Path | None = None,
) -> int:
    """Print what a run came to and what may come next; the command's exit code."""
    from altgrad_cli.runs.record import read_run

    summary = summarize(read_run(directory.path, layer_metrics=()))
    summary["failure_report"] = str(report) if report else None
    if output.as_json:
        print_json(SCHEMA, summary)
    else:
        _print_result(summary)
    if not ended:
        hint = f"interrupted; to go on: altgrad train --resume {shlex.quote(str(directory.path))}"
        talk_console().print(Text(hint), soft_wrap=True)
        return INTERRUPTED
    if not (output.quiet or output.as_json):
        for command in next_commands(directory.path):
            talk_console().print(f"next: {command}", soft_wrap=True)
    if faults:
        return exit_code_of(faults[0])
    if summary["lost_checkpoints"]:
        return FAILED
    if summary["outcome"] == "collapsed" or (output.strict and summary["alerts"]):
        return COLLAPSED
    return OK


def next_commands(run_dir: Path) -> list[str]:
    """The command lines that look further into a run that has ended."""
    from altgrad_cli.checkpoints.retention import anomaly_checkpoints
    from altgrad_cli.runs.folder import RunDirectory

    paths = {
        "altgrad report": [run_dir],
        "altgrad diagnose-checkpoint": anomaly_checkpoints(RunDirectory(run_dir).checkpoints)[:1],
        "wandb sync": sorted((run_dir / "wandb").glob("offline-run-*")),
    }
    return [f"{command} {shlex.quote(str(path))}" for command, given in paths.items() for path in given]


def _write_report(config: TrainConfig, run_dir: Path) -> list[Path]:
    """The failure report of a run that may need one; a plain report where its plots go to W&B."""
    from altgrad_cli.commands.report import write_run_report
    from altgrad_cli.reporting.report import write_failure_report
    from altgrad_cli.runs.record import read_run

    summary = summarize(read_run(run_dir, layer_metrics=()))
    if summary["outcome"] == "collapsed" or summary["cause"]:
        return [write_failure_report(run_dir)]
    if config.wandb.mode != "disabled":
        write_run_report(run_dir)
    return []


def summarize(record: RunRecord) -> dict[str, Any]:
    """What ``train --json`` prints about a run."""
    from altgrad_cli.sweeps.verdicts import figures, judge_run

    verdict = judge_run(record, None, None).verdict
    raised = {}
    for alert in record.alerts:
        raised[alert.name, alert.metric, alert.layer] = alert.state == "raised"
    return {
        "run": record.name,
        "run_dir": str(record.run_dir),
        "format": record.format,
        "formats": record.formats,
        "regime": record.regime,
        "seed": record.seed,
        "injections": record.injections,
        "init_hash": record.started.init_hash if record.started else None,
        "outcome": record.outcome,
        "reason": record.ended.reason if record.ended else None,
        "collapse": record.collapse,
        "steps": record.last_step,
        **figures(record),
        "alerts": sorted({name for (name, _, _), still in raised.items() if still}),
        "verdict": verdict.grade,
        "cause": verdict.cause,
        "failure_report": None,
        "lost_checkpoints": record.lost_checkpoints,
    }


def _print_result(summary: Mapping[str, Any]) -> None:
    from altgrad_cli.training.watch.collapse import collapse_words

    console = data_console()

    def figure(key: str, digits: int = 3) -> str:
        return decimals(summary[key], digits)

    injected = f", with injected faults: {', '.join(summary['injections'])}" if summary["injections"] else ""
    collapsed = ""
    if summary["collapse"]:
        is_stall = summary["collapse"]["class"] == "stall_collapse"
        collapsed = f": {collapse_words(summary['collapse']) if is_stall else summary['reason']}"
    losses = f"loss {figure('final_loss', 4)}, validation loss {figure('val_loss', 4)}"
    updates = f"stall {figure('stall_rate')}, update transfer {figure('update_transfer')}"
    lines = [
        f"{summary['run']}: {summary['outcome']} after {summary['steps']} steps{collapsed}{injected}",
        f"  {losses}, {updates}",
    ]
    if summary["cause"]:
        lines.append(f"  suspected: {summary['cause']} (no control to judge by: altgrad sweep runs them)")
    lines += [f"  not written: {lost}" for lost in summary["lost_checkpoints"]]
    if summary["failure_report"]:
        lines.append(f"  failure report: {summary['failure_report']}")
    lines.append(f"  folder: {summary['run_dir']}")
    for line in lines:
        console.print(Text(line), soft_wrap=True)
