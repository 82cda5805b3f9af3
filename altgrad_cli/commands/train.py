"""`altgrad train`: one run, watched, logged, resumable."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from altgrad_cli.commands.arguments import ConfigArguments, named_subject, split_config_and_overrides
from altgrad_cli.commands.console import Output, data_console, print_json, say, talk_console
from altgrad_cli.commands.failures import COLLAPSED, FAILED, INTERRUPTED, OK, exit_code_of
from altgrad_cli.commands.views.plan_view import show_train_plan
from altgrad_cli.errors import AltgradError, UsageError
from altgrad_cli.notation import decimals

if TYPE_CHECKING:
    from altgrad_cli.config.run import TrainConfig
    from altgrad_cli.runs.folder import RunDirectory
    from altgrad_cli.runs.loggers.listener import Listener
    from altgrad_cli.runs.record import RunRecord
    from altgrad_cli.runs.resumption import Resumption
    from altgrad_cli.subjects.subject import Subject
    from altgrad_cli.sweeps.verdicts import JudgedRun
    from altgrad_cli.training.events import Event
    from altgrad_cli.training.parallel.launch import Lead
    from altgrad_cli.training.parallel.ranks import Ranks

SCHEMA = "altgrad.train/1"

EXAMPLES = (
    "altgrad train e7m0_uniform",
    "altgrad train e3m4_uniform max_steps=1000 --name e3m4-long",
    "altgrad train fp8_format=E5M2 precision.rounding=stochastic",
    "altgrad train smoke --inject nan@5:blocks.0.attn.c_attn:gradients",
    "altgrad train e5m2_fp8 --wandb offline",
    "altgrad train --resume runs/e7m0_uniform",
    "altgrad train --resume runs/e7m0_uniform precision.rounding=stochastic",
    "altgrad train subject=my_model:make fp8_format=E3M4",
    "altgrad train my.yaml --dry-run",
)


def train(
    arguments: ConfigArguments = None,
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
    device: Annotated[str | None, typer.Option(metavar="NAME", help="auto, cpu, cuda or mps.")] = None,
    compile: Annotated[
        bool, typer.Option("--compile", help="Compile quantizer and model with torch.")
    ] = False,
    inject: Annotated[
        list[str] | None,
        typer.Option(metavar="KIND@STEP[@RANK][:MODULE[:ROLE]]", help="Plant a fault; may be repeated."),
    ] = None,
    capture_at: Annotated[
        str | None, typer.Option(metavar="STEP,STEP", help="Write forensic checkpoints before these updates.")
    ] = None,
    wandb: Annotated[
        str | None, typer.Option(metavar="MODE", help="Weights & Biases: online, offline or disabled.")
    ] = None,
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

    `torchrun --nproc-per-node N -m altgrad_cli train ...` shares every batch among N processes.
    """
    from altgrad_cli.training.parallel.launch import launched, on_every_rank

    config_name, overrides = split_config_and_overrides(arguments or ())
    overrides += [f"runtime.device={device}"] if device else []
    overrides += ["runtime.compile=true"] if compile else []
    overrides += [f"inject=[{','.join(repr(fault) for fault in inject)}]"] if inject else []
    overrides += [f"runtime.capture_at={capture_at}"] if capture_at else []
    overrides += [f"wandb.mode={wandb}"] if wandb else []
    output = Output(as_json=json, quiet=quiet, strict=strict)

    def lead(lead: Lead | None = None) -> int:
        if resume is None:
            return _begin(config_name, overrides, output, out=out, name=name, dry_run=dry_run, lead=lead)
        if out or name:
            raise UsageError(
                "a resumed run keeps its folder", where="--resume", hint="leave out --out and --name"
            )
        return _resume(resume, config_name, overrides, output, dry_run=dry_run, lead=lead)

    if launched() == 1:
        return lead()
    return on_every_rank(lead, partial(_follow, named=named_subject(overrides)))


def _follow(ranks: Ranks, config: TrainConfig, checkpoint: Path | None, *, named: str | None) -> None:
    """What every rank but the first does."""
    from altgrad_cli.runs.run import follow
    from altgrad_cli.subjects.yours import subject_named

    follow(ranks, config, checkpoint, partial(subject_named, named=named))


def _begin(
    config_name: str | None,
    overrides: list[str],
    output: Output,
    *,
    out: Path | None,
    name: str | None,
    dry_run: bool,
    lead: Lead | None,
) -> int:
    from altgrad_cli.config.loading import load_config
    from altgrad_cli.runs.folder import RUNS, check_name, create_run, safe_name, sole_writer, unused_path
    from altgrad_cli.subjects.yours import subject_named

    config = load_config(config_name, overrides)
    stem = check_name(name) if name else safe_name(Path(config_name or "base").stem)
    subject = subject_named(config, named_subject(overrides))
    if dry_run:
        show_train_plan(config, out or RUNS / stem, as_json=output.as_json, subject=subject)
        return OK
    if out is not None:
        directory = create_run(out, config)
    elif name is not None:
        directory = create_run(RUNS / stem, config, where="--name")
    else:
        directory = create_run(unused_path(RUNS, stem), config)
    listeners = [_Announcement(config, directory.path)] if config_name is None and not output.quiet else []
    with sole_writer(directory):
        return _train(config, directory, output, subject, listeners=listeners, lead=lead)


class _Announcement:
    """Says what a command line without a configuration does, before its first step and after every check."""

    def __init__(self, config: TrainConfig, folder: Path) -> None:
        from altgrad_cli.config.run import is_code

        corpus = config.data.path or config.data.hub or "the embedded legal text"
        corpus = config.subject if is_code(config.subject) else corpus
        self._text = (
            f"no config given, so this is base: {config.max_steps} steps of {config.fp8_format}"
            f" {config.precision.regime} on {corpus}, into {folder} (Ctrl-C stops it;"
            " --dry-run shows every key without training)"
        )

    def receive(self, event: Event) -> None:
        if event.kind == "run_started":
            say(self._text)

    def close(self) -> None:
        pass


def _resume(
    path: Path,
    config_name: str | None,
    overrides: list[str],
    output: Output,
    *,
    dry_run: bool,
    lead: Lead | None,
) -> int:
    from altgrad_cli.runs.folder import open_run, sole_writer

    directory = open_run(path)
    # The lock first: a run that is being written is refused at once, before anything of it is read.
    with nullcontext() if dry_run else sole_writer(directory, wait_seconds=1):
        from altgrad_cli.runs.resumption import plan_resumption
        from altgrad_cli.subjects.yours import subject_named

        resumption = plan_resumption(directory, config_name, overrides)
        config = resumption.config
        subject = None if resumption.ended else subject_named(config, named_subject(overrides))
        if dry_run:
            show_train_plan(config, directory.path, as_json=output.as_json, subject=subject)
            return OK
        if resumption.ended:
            say(f"{path} has ended; overrides would let it go on")
            return _conclude(directory, output, ended=True)
        for warning in resumption.warnings():
            say(f"warning: {warning}")
        if resumption.changed and not output.quiet:
            say(f"going on after step {resumption.step}, with {' '.join(resumption.changed)}")
        return _train(config, directory, output, subject, resume=resumption, lead=lead)


def _train(
    config: TrainConfig,
    directory: RunDirectory,
    output: Output,
    subject: Subject | None = None,
    *,
    resume: Resumption | None = None,
    listeners: Sequence[Listener] = (),
    lead: Lead | None = None,
) -> int:
    from altgrad_cli.runs.folder import discard_unstarted
    from altgrad_cli.runs.loggers.live import LiveView
    from altgrad_cli.runs.loggers.wandb import wandb_listeners, wandb_metadata
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

    def stopping() -> None:
        view.say("stopping after this step")

    if lead is not None:
        saved = None if resume is None else resume.checkpoint
        lead.assign(config, None if saved is None else saved.path)
    try:
        with (
            warnings_as_lines(view.warn),
            RunSignals(on_stop=stopping, patient=lead is not None) as signals,
        ):
            ended = carry_out(
                config,
                directory,
                [*listeners, view, *to_wandb],
                subject=subject,
                resume=resume,
                stop_requested=signals.stop_requested,
                capture_requested=signals.capture_requested,
                metadata=wandb_metadata(to_wandb),
                ranks=None if lead is None else lead.ranks,
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
    from altgrad_cli.config.run import code_words

    judged_run = _judged(directory.path)
    record = judged_run.record
    if output.as_json:
        print_json(SCHEMA, _values(judged_run, report))
    else:
        _print_result(judged_run, report)
    if not ended:
        _, code = code_words(record.subject)
        say(f"interrupted; to go on: altgrad train --resume {shlex.quote(str(directory.path))}{code}")
        return INTERRUPTED
    if not (output.quiet or output.as_json):
        for command in next_commands(directory.path, record.subject):
            say(f"next: {command}")
    if faults:
        return exit_code_of(faults[0])
    if record.lost_checkpoints:
        return FAILED
    return COLLAPSED if record.outcome == "collapsed" or (output.strict and _raised(record)) else OK


def next_commands(run_dir: Path, subject: str = "gpt") -> list[str]:
    """The command lines that look further into a run of ``subject`` that has ended."""
    from altgrad_cli.checkpoints.retention import anomaly_checkpoints
    from altgrad_cli.config.run import code_words
    from altgrad_cli.runs.folder import RunDirectory

    diagnose = f"altgrad diagnose-checkpoint{code_words(subject)[0]}"
    paths = {
        "altgrad report": [run_dir],
        diagnose: anomaly_checkpoints(RunDirectory(run_dir).checkpoints)[:1],
        "wandb sync": sorted((run_dir / "wandb").glob("offline-run-*")),
    }
    return [f"{command} {shlex.quote(str(path))}" for command, given in paths.items() for path in given]


def _write_report(config: TrainConfig, run_dir: Path) -> list[Path]:
    """The failure report of a run that may need one; a plain report where its plots go to W&B."""
    from altgrad_cli.commands.report import write_run_report
    from altgrad_cli.reporting.report import write_failure_report

    judged_run = _judged(run_dir)
    if judged_run.record.outcome == "collapsed" or judged_run.verdict.cause:
        return [write_failure_report(run_dir)]
    if config.wandb.mode != "disabled":
        write_run_report(run_dir)
    return []


def _judged(run_dir: Path) -> JudgedRun:
    """The run as it lies there, without a control to hold it against."""
    from altgrad_cli.runs.record import read_run
    from altgrad_cli.sweeps.verdicts import judge_run

    return judge_run(read_run(run_dir, layer_metrics=()), None, None)


def _raised(record: RunRecord) -> list[str]:
    """The alerts that are still raised at the end."""
    states = {(alert.name, alert.metric, alert.layer): alert.state for alert in record.alerts}
    return sorted({name for (name, _, _), state in states.items() if state == "raised"})


def _values(judged_run: JudgedRun, report: Path | None) -> dict[str, object]:
    """What ``train --json`` prints about a run."""
    from altgrad_cli.sweeps.verdicts import figures

    record, verdict = judged_run.record, judged_run.verdict
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
        "alerts": _raised(record),
        "verdict": verdict.grade,
        "cause": verdict.cause,
        "failure_report": str(report) if report else None,
        "lost_checkpoints": record.lost_checkpoints,
    }


def _print_result(judged_run: JudgedRun, report: Path | None) -> None:
    from altgrad_cli.training.watch.collapse import collapse_words

    record, cause = judged_run.record, judged_run.verdict.cause
    injected = f", with injected faults: {', '.join(record.injections)}" if record.injections else ""
    collapsed = ""
    if record.collapse and record.ended:
        is_stall = record.collapse["class"] == "stall_collapse"
        collapsed = f": {collapse_words(record.collapse) if is_stall else record.ended.reason}"
    losses = (decimals(record.final_loss, 4), decimals(record.validation.last(), 4))
    updates = (decimals(record.end("bit_stall_rate"), 3), decimals(record.end("update_transfer"), 3))
    moved = f"stall {updates[0]}, update transfer {updates[1]}"
    micro, macro = (record.series(metric).last() for metric in ("micro_f1", "macro_f1"))
    scores = "" if micro is None else f", micro F1 {decimals(micro, 3)}, macro F1 {decimals(macro, 3)}"
    lines = [
        f"{record.name}: {record.outcome} after {record.last_step} steps{collapsed}{injected}",
        f"  loss {losses[0]}, validation loss {losses[1]}{scores}, {moved}",
    ]
    if cause:
        lines.append(f"  suspected: {cause} (no control to judge by: altgrad sweep runs them)")
    lines += [f"  not written: {lost}" for lost in record.lost_checkpoints]
    lines += [f"  failure report: {report}"] if report else []
    for line in [*lines, f"  folder: {record.run_dir}"]:
        data_console().print(Text(line), soft_wrap=True)
