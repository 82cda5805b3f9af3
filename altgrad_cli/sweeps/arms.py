"""An arm of a sweep: one run, why it is there, and which controls it is held against."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from typing import Literal

from altgrad_cli.config.precision import PrecisionConfig, Regime
from altgrad_cli.config.run import TrainConfig
from altgrad_cli.runs.folder import JsonObject, check_name, safe_name
from altgrad_cli.runs.record import CONTROLS

ArmKind = Literal["control", "format", "retry", "intervened", "attribution", "rescue", "tuning"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """One run of a sweep. Two arms with equal configs are the same experiment and are run once."""

    name: str
    """Safe as a file name; unique within the sweep."""
    kind: ArmKind
    config: TrainConfig
    retry_of: str | None = None
    """The arm whose result called for this one."""
    reason: str = ""
    """Why it is in the plan, in words; for a retry, the evidence that it was chosen from."""
    controls: Mapping[str, str] | None = None
    """``fp32``, ``frozen`` and ``bf16`` -> the arm of that control with the same seed and settings."""

    @property
    def format(self) -> str:
        """The format under study; fp32 and frozen have none but a rule's, and are named by regime."""
        regime = self.config.precision.regime
        if rules_alone(self.config.precision):
            return self.config.precision.rules_format(self.config.fp8_format)
        return {"fp32": "FP32", "frozen": "FP32", "bf16": "BF16"}.get(regime, self.config.fp8_format)

    def to_json(self) -> dict[str, object]:
        """What ``sweep.json`` says about the plan of this arm."""
        return {
            "name": self.name,
            "kind": self.kind,
            "retry_of": self.retry_of,
            "reason": self.reason,
            "format": self.format,
            "regime": self.config.precision.regime,
            "seed": self.config.seed,
            "rule": self.config.optimizer.rule,
            "learning_rate": self.config.learning_rate,
            "controls": dict(self.controls or {}),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class ArmRow:
    """What ``sweep.json`` says of an arm; its configuration lies in the folder of its run."""

    name: str
    kind: ArmKind
    outcome: str = "unfinished"
    retry_of: str | None = None
    reason: str = ""
    controls: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_json(cls, row: JsonObject) -> ArmRow:
        """The inverse of ``ArmResult.to_json``, as far as it is asked for; raises for what is no such row."""
        return cls(
            name=check_name(row["name"]),
            kind=row["kind"],
            outcome=str(row.get("outcome", "unfinished")),
            retry_of=row.get("retry_of"),
            reason=row.get("reason") or "",
            controls=dict(row.get("controls") or {}),
        )


def rules_alone(precision: PrecisionConfig) -> bool:
    """Whether nothing is under study but the rules: the regime rounds nothing, or to BF16 only."""
    return bool(precision.rules) and precision.regime in ("fp32", "bf16")


def control_config(base: TrainConfig, regime: Regime) -> TrainConfig:
    """The control of ``base``: the same run with nothing rounded but what ``regime`` names.

    Settings of ``base`` that ``noticed_by_control`` denies make no difference to it.
    """
    return replace(
        base,
        fp8_format="E5M2",
        precision=PrecisionConfig(regime=regime),
        optimizer=base.optimizer.unrounded,
        enable_partition_clipping=False,
        enable_emergency_shift=False,
        inject=(),
    )


def find_controls(config: TrainConfig, candidates: Iterable[Arm]) -> dict[str, str]:
    """Regime -> the first of ``candidates`` that is that control of ``config``, without a plan.

    What does not change the training (the machine, the logs, what is measured) may differ.
    """
    wanted = {_training(control_config(config, regime)): regime for regime in CONTROLS}
    found: dict[str, str] = {}
    for arm in candidates:
        regime = wanted.get(_training(arm.config))
        if regime is not None:
            found.setdefault(regime, arm.name)
    return found


def _training(config: TrainConfig) -> TrainConfig:
    """``config`` with what does not change the training put back to its default."""
    return TrainConfig(**{name: getattr(config, name) for name in _TRAINING})


_TRAINING = (
    *("subject", "seed", "batch_size", "learning_rate", "max_steps", "fp8_format"),
    *("enable_emergency_shift", "enable_partition_clipping", "inject"),
    *("model", "data", "precision", "optimizer"),
)


def noticed_by_control(key: str) -> bool:
    """Whether the configuration key ``key`` makes another run of a control."""
    return not key.startswith("precision.") and key not in (
        "fp8_format",
        "enable_partition_clipping",
        "enable_emergency_shift",
        "inject",
    )


EMBEDDED = "embedded"
"""Names the embedded corpus among texts."""
_SPLITS = ("train", "training", "data")
"""File names that say nothing of a text: its folder does."""


def text_words(texts: Sequence[str]) -> dict[str, str]:
    """Each of ``texts`` (paths, or ``EMBEDDED``) -> a short word for names, no two alike.

    It is the file's stem, or its folder where the stem is ``train`` or the like, with as many folders before
    it as it takes to tell the texts apart; a number where none do.
    """
    parts = [_telling_parts(text) for text in texts]
    lengths = [1] * len(texts)
    while True:
        found = [safe_name("-".join(each[-n:])).lower() for each, n in zip(parts, lengths, strict=True)]
        alike = [i for i, word in enumerate(found) if found.count(word) > 1 and lengths[i] < len(parts[i])]
        if not alike:
            break
        for i in alike:
            lengths[i] += 1
    words: dict[str, str] = {}
    for text, word in zip(texts, found, strict=True):
        name, number = word, 2
        while name in words.values():
            name, number = f"{word}-{number}", number + 1
        words[text] = name
    return words


def _telling_parts(text: str) -> list[str]:
    """The folders and the stem of a path, less what tells nothing."""
    parts = [part for part in PurePath(text).parts if part not in ("/", "..", ".")] or [text]
    parts[-1] = parts[-1].partition(".")[0] or parts[-1]
    return parts[:-1] if len(parts) > 1 and parts[-1].lower() in _SPLITS else parts


def arm_name(*parts: str, seed: int | None = None, settings: Sequence[tuple[str, str]] = ()) -> str:
    """``e7m0-uniform-rounding-stochastic-seed43``: a file name from an arm's parts."""
    words = [*parts]
    for key, value in settings:
        words += [key.rpartition(".")[2], value]
    if seed is not None:
        words.append(f"seed{seed}")
    return safe_name("-".join(words).lower().replace(":", "_").replace(",", "+"))
