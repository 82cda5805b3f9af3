"""Taking up a run again: with its own configuration, or with changes that are said and recorded.

What can be known is found out first, by reading alone; the run's folder changes when the run is accepted.
A checkpoint is gone on from only where the log holds all its steps, so that the record has no holes. What
then leaves the run's history and is not written again (steps under another configuration, damage) is kept
beside it. A changed configuration is written to ``config.yaml``; the one before is kept as
``config_until_step_<n>.yaml``, and the log's next ``run_started`` carries the new one.
"""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from altgrad_cli.config.loading import changes, flat, from_plain, load_config, resolve, to_yaml
from altgrad_cli.config.run import MOST_STEPS, TrainConfig
from altgrad_cli.errors import CheckpointError, ConfigError
from altgrad_cli.files import unused, write_whole
from altgrad_cli.runs.folder import CONFIG, SUMMARY, RunDirectory, unused_path
from altgrad_cli.runs.log import History, Line, cut_after, read_history

if TYPE_CHECKING:
    from altgrad_cli.checkpoints.file import VerifiedCheckpoint

_HARMLESS = ("wandb.",)
"""Settings that no bit of a run depends on."""
_OF_THE_END = ("failure_report.md", "failure_report", SUMMARY)
"""What a run leaves when it ends, written anew at its next end."""


@dataclass(frozen=True, slots=True)
class Resumption:
    """How a run goes on."""

    config: TrainConfig
    checkpoint: VerifiedCheckpoint | None
    """What it goes on from; None: from its beginning."""
    step: int
    """Steps that the checkpoint holds; 0 without one."""
    changed: tuple[str, ...]
    """``key=value`` of every setting that differs from before."""
    ended: bool
    """Whether nothing is left to do: the run has ended, and nothing is changed."""
    unusable: tuple[tuple[Path, str], ...]
    """Later checkpoints that were passed over, and why."""
    damage: str | None
    """What is wrong with the log behind the step; None where nothing is."""

    def warnings(self) -> list[str]:
        """What the user should read before the run goes on."""
        found = [f"{path.name} cannot be gone on from: {why}" for path, why in self.unusable]
        found += [f"{self.damage}; what follows there is kept beside it"] if self.damage else []
        start = f"{self.checkpoint.path.name} (step {self.step})" if self.checkpoint else "the beginning"
        return [*found, f"the run goes on from {start}"] if found else []


def plan_resumption(
    directory: RunDirectory,
    config_name: str | None = None,
    overrides: Sequence[str] = (),
    *,
    may_begin_anew: bool = False,
) -> Resumption:
    """How the run in ``directory`` can go on. Nothing is changed.

    Args:
        config_name: a config to go on with instead of the run's own.
        overrides: ``key=value``, on top of either.
        may_begin_anew: begin at step 0 where the run was ended before its first checkpoint.

    Raises:
        CheckpointError: there is nothing to go on from, or only the loop that was observed could go on.
        ConfigError: the configuration differs from the run's in keys that no override names, or ends it
            before the step that it has reached.
    """
    history = read_history(directory.path)
    if any(start["config"].get("max_steps") == MOST_STEPS for start in history.starts):
        raise CheckpointError(
            "this is the run of a loop of one's own (observe), and only that loop can go on with it",
            where=str(directory.path),
            hint="start the loop again, with another run_dir; diagnose-checkpoint reads what was captured",
        )
    checkpoint, unusable = _checkpoint(directory, history)
    if checkpoint is None and (unusable or not (history.ended or may_begin_anew)):
        raise _nothing_to_go_on_from(directory, history, unusable)
    step = 0 if checkpoint is None else int(checkpoint.payload["step"])
    starts = [start for start in history.starts if start["step"] <= step]
    # Read and resolved again: a setting that is newer than the run has its default.
    before = resolve(from_plain(starts[-1]["config"]) if starts else directory.load_config())
    config = _said_config(before, config_name or str(directory.config), overrides)
    changed = _changes(before, resolve(config))
    ended = history.ended and not changed
    had_more = history.saved or history.ended or (history.damage and history.starts)
    if checkpoint is None and had_more and not ended:
        raise _nothing_to_go_on_from(directory, history, unusable)
    reached = max(step, history.step)
    if config.max_steps < reached:
        raise ConfigError(
            f"the run has taken {reached} steps already",
            where=f"max_steps={config.max_steps}",
            allowed=f"max_steps: {reached} or more",
        )
    return Resumption(
        config=config,
        checkpoint=checkpoint,
        step=step,
        changed=tuple(f"{key}={word}" for key, word in changed.items()),
        ended=ended,
        unusable=tuple(unusable),
        damage=history.damage,
    )


def take_up(directory: RunDirectory, resumption: Resumption) -> None:
    """Put the run's folder back to where it goes on from; to be called once the run is accepted."""
    from altgrad_cli.checkpoints.retention import discard_leftovers, set_aside

    discard_leftovers(directory.checkpoints)
    for path, _ in resumption.unusable:
        set_aside(path)
    keep = bool(resumption.changed or resumption.damage)
    cut_after(directory.path, resumption.step if resumption.checkpoint else -1, keep=keep)
    text, before = to_yaml(resumption.config), directory.config.read_text(encoding="utf-8")
    if text != before:
        write_whole(unused(directory.path / f"config_until_step_{resumption.step}.yaml"), before)
        write_whole(directory.config, text)
    for name in _OF_THE_END:
        path = directory.path / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _checkpoint(
    directory: RunDirectory, history: History
) -> tuple[VerifiedCheckpoint | None, list[tuple[Path, str]]]:
    """The newest checkpoint whose steps the log holds, and those passed over before it."""
    from altgrad_cli.checkpoints.retention import newest_checkpoints

    unusable: list[tuple[Path, str]] = []
    for path, saved in newest_checkpoints(directory.checkpoints):
        if isinstance(saved, CheckpointError):
            unusable.append((path, saved.message))
        elif not _holds(history, saved.payload):
            unusable.append((path, f"the log does not hold all of its {saved.payload['step']} steps"))
        elif not any(_is_of(saved.payload, start) for start in history.starts):
            unusable.append((path, "it is of another run than the log"))
        else:
            return saved, unusable
    return None, unusable


def _holds(history: History, payload: Mapping[str, Any]) -> bool:
    """Whether the log has everything up to the checkpoint, the evaluation of its own step included."""
    step = payload["step"]
    evaluated = history.evaluated if step % payload["config"]["runtime"]["evaluation_interval"] == 0 else step
    return history.step > step or (history.step == step and evaluated == step)


def _is_of(payload: Mapping[str, Any], start: Line) -> bool:
    """Whether a checkpoint was written in the run, or the part of it, that began so."""
    fingerprints = [(whole.get("corpus") or {}).get("fingerprint") for whole in (payload, start)]
    same_corpus = None in fingerprints or fingerprints[0] == fingerprints[1]
    same_config = not _changes(payload["config"], start["config"])
    return start["step"] <= payload["step"] and same_corpus and same_config


def _said_config(before: Mapping[str, Any], source: str, overrides: Sequence[str]) -> TrainConfig:
    """The configuration in ``source`` with the overrides, which must say every difference from ``before``."""
    config = load_config(source)
    named = tuple(override.partition("=")[0].strip() for override in overrides)
    unsaid = {
        key: word
        for key, word in _changes(before, resolve(config)).items()
        if not any(f"{key}.".startswith(f"{name}.") for name in named)
    }
    if unsaid:
        known = flat(before)
        shown = ", ".join(f"{key} was {known.get(key)}" for key in list(unsaid)[:5])
        raise ConfigError(
            f"{source} is not the configuration of the run's checkpoint: {shown}",
            where=source,
            allowed="the same configuration, or every difference as an override",
            hint="to go on with it: " + " ".join(f"{key}={word}" for key, word in unsaid.items()),
        )
    return load_config(source, overrides) if overrides else config


def _nothing_to_go_on_from(
    directory: RunDirectory, history: History, unusable: Sequence[tuple[Path, str]]
) -> CheckpointError:
    path = directory.path
    reasons = [f"{checkpoint.name}: {why}" for checkpoint, why in unusable] or ["there is no checkpoint"]
    reasons += [history.damage] if history.damage else []
    anew = unused_path(path.resolve().parent, directory.name)
    words = ["altgrad", "train", str(path / CONFIG), "--out", str(anew)]
    return CheckpointError(
        f"nothing to go on from: {'; '.join(reasons)}",
        where=str(directory.checkpoints),
        hint=f"the run is left as it is; to begin it anew beside it: {shlex.join(words)}",
    )


def _changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, str]:
    return {key: word for key, word in changes(before, after).items() if not key.startswith(_HARMLESS)}
