"""`altgrad sweep`: every format and its controls, side by side, from nothing to verdicts."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from altgrad_cli.commands.arguments import (
    ConfigArguments,
    complete_axis,
    complete_format,
    complete_rule,
    named_subject,
    split_config_and_overrides,
)
from altgrad_cli.commands.console import Output, data_console, print_json, say, talk_console
from altgrad_cli.commands.failures import COLLAPSED, FAILED, INTERRUPTED, OK
from altgrad_cli.commands.views.plan_view import show_sweep_plan
from altgrad_cli.errors import UsageError
from altgrad_cli.files import remove_empty

if TYPE_CHECKING:
    from altgrad_cli.sweeps.executors.choice import Workplace
    from altgrad_cli.sweeps.results import SweepRecord
    from altgrad_cli.sweeps.specification import SweepSpec

SCHEMA = "altgrad.sweep/1"

EXAMPLES = (
    "altgrad sweep --order e5m2,e3m4,e1m6,e0m7,e7m0",
    "altgrad sweep data.path=law.jsonl data.tokenizer=bpe:4096 --out runs/law",
    "altgrad sweep --order e7m0 --attribute --with-interventions",
    "altgrad sweep --seeds 42,43,44 --set learning_rate=2e-4,6e-4",
    "altgrad sweep --order e5m2,e7m0 --rules adamw,adamw+stochastic,compensated --tune --seeds 42,43,44",
    "altgrad sweep --order e5m2,e7m0 --texts embedded,law.jsonl --tune --seeds 42,43,44",
    "altgrad sweep --executor ray:auto --out /shared/law",
    "altgrad sweep --dry-run",
    "altgrad sweep --resume runs/law",
)


def sweep(
    arguments: ConfigArguments = None,
    order: Annotated[
        str | None,
        typer.Option(
            metavar="FORMATS",
            help="Formats, in the order in which they run.",
            autocompletion=complete_format,
        ),
    ] = None,
    rules: Annotated[
        str | None,
        typer.Option(
            metavar="RULES",
            help="Update rules, each with its own controls; RULE+stochastic rounds its update so.",
            autocompletion=complete_rule,
        ),
    ] = None,
    texts: Annotated[
        str | None,
        typer.Option(
            metavar="PATHS",
            help="Texts, each with its own controls (and rates, with --tune): files, folders, or embedded.",
        ),
    ] = None,
    tune: Annotated[
        str | None,
        typer.Option(
            metavar="[RATES]",
            help="Every arm, controls too, at its best learning rate (default: half a decade round its own).",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The sweep's folder (default: runs/sweep-DATE-TIME).")
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Go on with a sweep: finished runs stay, the others are continued."),
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Runs at a time, one process each (default: all cores).")
    ] = None,
    executor: Annotated[
        str, typer.Option(metavar="NAME", help="local, or ray[:ADDRESS]: on this machine, or a cluster's.")
    ] = "local",
    seeds: Annotated[
        str | None, typer.Option(metavar="N,N", help="Repeat everything for these seeds.")
    ] = None,
    axes: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=A,B",
            help="A further axis; may be repeated.",
            autocompletion=complete_axis,
        ),
    ] = None,
    retries: Annotated[
        bool, typer.Option("--retries/--no-retries", help="Try formats again where they may hold.")
    ] = True,
    with_interventions: Annotated[
        bool, typer.Option("--with-interventions", help="Also run failing formats with shift and clipping.")
    ] = False,
    attribute: Annotated[
        bool,
        typer.Option("--attribute", help="Run what tells the cause: role by role, and rescues of layers."),
    ] = False,
    skip_equivalent: Annotated[
        bool, typer.Option("--skip-equivalent", help="Run one of several formats that are one experiment.")
    ] = False,
    device: Annotated[str | None, typer.Option(metavar="NAME", help="auto, cpu, cuda or mps.")] = None,
    wandb: Annotated[
        str | None, typer.Option(metavar="MODE", help="Weights & Biases: online, offline or disabled.")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit 3 if a format collapsed.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan, its configs, the predicted stall and the time.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="The results as one JSON document on stdout.")] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="No progress.")] = False,
) -> int:
    """Train every format and the controls fp32, bf16 and frozen, and judge each format against them.

    A format that collapses is a result: the sweep goes on and exits 0.
    """
    from altgrad_cli.config.loading import load_config
    from altgrad_cli.config.run import TrainConfig
    from altgrad_cli.subjects.yours import subject_named
    from altgrad_cli.sweeps.executors.choice import parse_workplace
    from altgrad_cli.sweeps.specification import (
        DEFAULT_ORDER,
        SweepSpec,
        parse_axes,
        parse_order,
        parse_rates,
        parse_rules,
        parse_seeds,
        parse_texts,
    )
    from altgrad_cli.training.parallel.launch import refuse_ranks

    refuse_ranks("a sweep", "leave torchrun out: --jobs N has N runs at a time, --executor ray a cluster's")
    place = parse_workplace(executor)
    if resume is not None:
        options = {"--order": order, "--seeds": seeds, "--set": axes, "--out": out, "--rules": rules}
        options["--texts"] = texts
        given = [name for name, value in options.items() if value] + ["--tune"] * (tune is not None)
        folder = resume
        overrides = list(arguments or ())
        named = named_subject(overrides)
        asked = _reopen(folder, [*(word for word in overrides if word != f"subject={named}"), *given])
        spec = replace(
            asked,
            attribute=asked.attribute or attribute,
            with_interventions=asked.with_interventions or with_interventions,
        )
    else:
        name, overrides = split_config_and_overrides(arguments or ())
        overrides += [f"runtime.device={device}"] if device else []
        overrides += [f"wandb.mode={wandb}"] if wandb else []
        base = load_config(name, overrides)
        named = named_subject(overrides)
        said = any(override.partition("=")[0].strip() == "learning_rate" for override in overrides)
        spec = SweepSpec(
            base=base,
            order=DEFAULT_ORDER if order is None else parse_order(order),
            seeds=(base.seed,) if seeds is None else parse_seeds(seeds),
            axes=parse_axes(axes or ()),
            rules=parse_rules(rules or ""),
            texts=parse_texts(texts or ""),
            tune=None if tune is None else parse_rates(tune),
            own_rates=not said and base.learning_rate == TrainConfig().learning_rate,
            retries=retries,
            with_interventions=with_interventions,
            attribute=attribute,
            skip_equivalent=skip_equivalent,
        )
        folder = out or Path("runs") / f"sweep-{datetime.now():%Y%m%d-%H%M%S}"
    subject = subject_named(spec.base, named)
    if dry_run:
        show_sweep_plan(spec, folder, jobs or available_cores(), as_json=json, subject=subject)
        return OK
    output = Output(as_json=json, quiet=quiet, strict=strict)
    return _run(spec, folder, place, jobs, output, named, new=resume is None)


def available_cores() -> int:
    """The cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _reopen(folder: Path, given: Sequence[str]) -> SweepSpec:
    from altgrad_cli.sweeps.results import is_sweep, read_spec

    if not is_sweep(folder):
        raise UsageError(
            f"{folder} is not the folder of a sweep",
            where="--resume",
            allowed="a folder that holds sweep.json",
        )
    if given:
        raise UsageError(
            f"a sweep goes on as it was specified; {', '.join(given)} cannot be added",
            where="--resume",
            hint=f"altgrad sweep --resume {shlex.quote(str(folder))}, with subject=... where it is your own",
        )
    return read_spec(folder)


def _run(
    spec: SweepSpec,
    folder: Path,
    place: Workplace,
    jobs: int | None,
    output: Output,
    named: str | None,
    *,
    new: bool,
) -> int:
    from altgrad_cli.commands.views.sweep_view import SweepView
    from altgrad_cli.config.run import code_words, is_code
    from altgrad_cli.runs.folder import create_folder
    from altgrad_cli.runs.loggers.warnings import warnings_as_lines
    from altgrad_cli.runs.signals import STOP_INTERRUPTS, handled
    from altgrad_cli.subjects.built_in import read_corpus
    from altgrad_cli.sweeps.comparison import compare_seeds, loss_gaps
    from altgrad_cli.sweeps.engine import run_sweep
    from altgrad_cli.sweeps.executors.choice import open_executor
    from altgrad_cli.sweeps.format_verdicts.ranking import rankings
    from altgrad_cli.sweeps.format_verdicts.words import format_verdicts

    def report_failure(run_dir: Path, final: bool) -> None:
        from altgrad_cli.reporting.report import write_failure_report

        # Without pictures at first: they are drawn once, when the controls and the attribution are all in.
        write_failure_report(run_dir, sweep_dir=folder, pictures=final)

    with warnings_as_lines(lambda text: say(f"warning: {text}")):
        # Tokenized once, before the workers ask: a corpus that cannot be used ends the sweep here.
        for config in {variation.base for variation in spec.variations()}:
            # Of the halves of the validation split the first is never the longer one.
            part = config.data.evaluate_on if spec.tune is None else "tuning"
            if is_code(config.subject):
                continue  # tried out already
            read_corpus(replace(config, data=replace(config.data, evaluate_on=part)))
    made = create_folder(folder) if new else []
    try:
        with (
            closing(open_executor(place, folder, spec.base, jobs=jobs, cores=available_cores())) as executor,
            handled(STOP_INTERRUPTS),
            SweepView(talk_console(), quiet=output.quiet) as view,
        ):
            outcome = run_sweep(spec, folder, executor, view, subject=named, on_failed=report_failure)
    finally:
        remove_empty(made)
    record = outcome.record
    if spec.base.wandb.mode != "disabled" and not outcome.interrupted:
        _send_reports(record, view.note)
    if output.as_json:
        comparisons = [found.to_json() for found in compare_seeds(record.planned, record.findings)]
        gaps = [found.to_json() for found in loss_gaps(record.planned, record.findings)]
        verdicts = [found.to_json() for found in format_verdicts(record.planned, record.findings)]
        ranked = [[each.to_json() for each in bench] for bench in rankings(record.planned, record.findings)]
        more = {"comparisons": comparisons, "loss_gaps": gaps, "verdicts": verdicts, "rankings": ranked}
        print_json(SCHEMA, {**record.to_json(), **more})
    elif record.findings:
        _print_results(record)
    _, code = code_words(spec.base.subject)
    resume = f"altgrad sweep --resume {shlex.quote(str(folder))}{code}"
    if outcome.interrupted or (record.unfinished and not outcome.errors):
        say(f"interrupted; to go on: {resume}")
        return INTERRUPTED
    if outcome.errors:
        for name, message in outcome.errors.items():
            say(f"error: {name}: {message}")
        say(f"hint: {resume} tries again")
        return FAILED
    if not (output.quiet or output.as_json):
        say(f"next: altgrad report {shlex.quote(str(folder))}")
        for path in sorted(folder.glob("*/wandb/offline-run-*")):
            say(f"next: wandb sync {shlex.quote(str(path))}")
    collapsed = any(f.outcome == "collapsed" for f in record.findings.values())
    return COLLAPSED if output.strict and collapsed else OK


def _send_reports(record: SweepRecord, warn: Callable[[str], object]) -> None:
    """Reports and comparison plots need the sweep's verdicts, so they follow their runs to W&B at the end."""
    from altgrad_cli.commands.report import write_run_report
    from altgrad_cli.runs.folder import RunDirectory
    from altgrad_cli.runs.loggers.wandb import wandb_listeners

    for result in record.arms:
        if result.finding is not None and result.arm.kind != "tuning":
            if not result.finding.failed:
                write_run_report(result.run_dir)
            for logger in wandb_listeners(result.arm.config, RunDirectory(result.run_dir), warn=warn):
                logger.start()
                logger.close()


def _print_results(record: SweepRecord) -> None:
    from altgrad_cli.commands.views.sweep_tables import (
        formats_table,
        full_width,
        gaps_table,
        rates_table,
        results_table,
        table_notes,
    )

    console = data_console()
    table = results_table(record)
    if full_width(console, table) > console.width:
        if console.is_terminal:
            table = results_table(record, brief=True)
            table.caption = "a wider terminal (or --json) shows every column"
        else:  # a file has no width: nothing is cut
            console.width = full_width(console, table)
    for each in (table, formats_table(record), rates_table(record), gaps_table(record)):
        if each is not None:
            console.print(each)
            console.print()
    for note in table_notes(record):
        console.print(Text(note, "dim"), soft_wrap=not console.is_terminal)
    console.print(Text(f"runs and sweep.json: {record.path}"), soft_wrap=True)
