"""Taking up a run again: with its own configuration, or with changes that are said and recorded.

A changed configuration is written to ``config.yaml``; the one before is kept beside it as
``config_until_step_<n>.yaml``, and the log's next ``run_started`` carries the new one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from altgrad_cli.config.loading import changes, flat, load_config, resolve, to_yaml
from altgrad_cli.config.run import TrainConfig
from altgrad_cli.errors import CheckpointError, ConfigError
from altgrad_cli.files import write_whole
from altgrad_cli.runs.folder import RunDirectory

_HARMLESS = ("wandb.",)
"""Settings that no bit of a run depends on."""


@dataclass(frozen=True, slots=True)
class Resumption:
    """How a run goes on."""

    config: TrainConfig
    step: int
    """Steps that its newest whole checkpoint holds; 0 without one."""
    changed: tuple[str, ...]
    """``key=value`` of every setting that differs from before."""


def plan_resumption(
    directory: RunDirectory, config_name: str | None = None, overrides: Sequence[str] = ()
) -> Resumption:
    """The configuration with which the run in ``directory`` goes on.

    Args:
        config_name: a config to go on with instead of the run's own.
        overrides: ``key=value``, on top of either.

    Raises:
        ConfigError: the configuration differs from the checkpoint's in keys that no override names.
    """
    step, saved = _saved_config(directory)
    before = saved if saved is not None else resolve(directory.load_config())
    source = config_name or str(directory.config)
    config = load_config(source)
    named = tuple(override.partition("=")[0].strip() for override in overrides)
    unsaid = {
        key: word
        for key, word in _changes(before, config).items()
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
    if overrides:
        config = load_config(source, overrides)
    changed = tuple(f"{key}={word}" for key, word in _changes(before, config).items())
    return Resumption(config=config, step=step, changed=changed)


def adopt(directory: RunDirectory, resumption: Resumption) -> None:
    """Record a changed configuration in the run's folder; an unchanged one leaves everything as it is."""
    text = to_yaml(resumption.config)
    before = directory.config.read_text(encoding="utf-8")
    if text != before:
        kept = directory.path / f"config_until_step_{resumption.step}.yaml"
        if not kept.exists():
            write_whole(kept, before)
        write_whole(directory.config, text)


def _saved_config(directory: RunDirectory) -> tuple[int, dict[str, Any] | None]:
    from altgrad_cli.checkpoints.retention import newest_readable

    try:
        _, payload = newest_readable(directory.checkpoints)
    except CheckpointError:
        return 0, None
    saved: Any = payload["config"]
    return int(payload["step"]), dict(saved)  # type: ignore[call-overload]


def _changes(before: Mapping[str, Any], config: TrainConfig) -> dict[str, str]:
    changed = changes(before, resolve(config))
    return {key: word for key, word in changed.items() if not key.startswith(_HARMLESS)}
