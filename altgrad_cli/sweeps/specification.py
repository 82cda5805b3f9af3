"""What a sweep was asked to do: everything the plan depends on, as plain data that ``sweep.json`` keeps."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product

from altgrad_cli.config.limits import check_positive
from altgrad_cli.config.loading import as_word, changes, flat, from_plain, resolve, with_overrides
from altgrad_cli.config.precision import Regime
from altgrad_cli.config.run import TrainConfig
from altgrad_cli.config.update_rules import check_rule, default_rate
from altgrad_cli.errors import ConfigError, UsageError
from altgrad_cli.formats import parse_format
from altgrad_cli.sweeps.arms import EMBEDDED, noticed_by_control, rules_alone, text_words
from altgrad_cli.sweeps.tuning import rate_word

DEFAULT_ORDER = ("E5M2", "E3M4", "E1M6", "E0M7", "E7M0")
Setting = tuple[str, str]
"""One ``dotted.key`` and its value as typed."""
ROUNDED_STOCHASTICALLY = "+stochastic"
"""Behind the name of an update rule: the same with the update rounded stochastically."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepSpec:
    """A sweep's specification."""

    base: TrainConfig
    order: tuple[str, ...] = DEFAULT_ORDER
    """Formats, by canonical name, in the order in which they run."""
    seeds: tuple[int, ...] = (42,)
    axes: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Further axes, ``(key, values)``: every combination is run, each with controls of its own if need be."""
    rules: tuple[str, ...] = ()
    """Update rules, an axis too: names of ``optimizer.rule``, with ``ROUNDED_STOCHASTICALLY`` if so. Each has
    its own controls, which do not notice the rounding. Empty: that of ``base`` alone."""
    texts: tuple[str, ...] = ()
    """Texts, an axis too: values of ``data.path``, or ``embedded``. Each has its own controls and, with
    ``tune``, its own best rates. Empty: that of ``base`` alone."""
    tune: tuple[float, ...] | None = None
    """The learning rates at which every arm, controls included, is tried with every seed before it runs at
    the one of the best mean loss; empty: half a decade round its own. None: none is tried."""
    own_rates: bool = True
    """Whether ``rules`` and ``tune`` take (or start from) a rule's default rate and not that of ``base``."""
    retries: bool = True
    with_interventions: bool = False
    attribute: bool = False
    skip_equivalent: bool = False

    def __post_init__(self) -> None:
        if not self.order:
            raise UsageError("no format to sweep over", where="--order", allowed="for example e5m2,e7m0")
        for name in ("order", "seeds", "rules", "texts", "tune"):
            values: tuple[object, ...] = getattr(self, name) or ()
            twice = sorted({str(v) for v in values if values.count(v) > 1})
            if twice:
                raise UsageError(f"named twice: {', '.join(twice)}", where=f"--{name}")
        for rule in self.rules:
            check_rule(rule.removesuffix(ROUNDED_STOCHASTICALLY), "--rules")
        for rate in self.tune or ():
            check_positive("--tune", rate)
        self._check_axes()
        self.variations()  # every combination obeys the rules of the configuration, or this raises

    def _check_axes(self) -> None:
        own = {"fp8_format": "--order", "seed": "--seeds"}
        own |= {"optimizer.rule": "--rules"} if self.rules else {}
        own |= (
            {"precision.rounding": "--rules"}
            if any(rule.endswith(ROUNDED_STOCHASTICALLY) for rule in self.rules)
            else {}
        )
        own |= dict.fromkeys(("data.path", "data.hub"), "--texts") if self.texts else {}
        if self.texts and (self.base.data.path or self.base.data.hub):
            raise UsageError(
                "one text is named beside the axis of texts",
                where="data.path, data.hub, --texts",
                hint="name it in --texts",
            )
        own |= {"learning_rate": "--tune", "data.evaluate_on": "--tune"} if self.tune is not None else {}
        if self.tune is not None and self.base.data.evaluate_on != "validation":
            raise UsageError(
                "rates are chosen on the first half of the validation split, and the result is of the second",
                where="data.evaluate_on, --tune",
                hint="leave data.evaluate_on out",
            )
        for key, values in self.axes:
            if key in own:
                raise UsageError(f"{key} is an axis of its own", where=f"--set {key}", hint=f"use {own[key]}")
            if not values:
                raise UsageError(f"no value for {key}", where="--set", allowed="key=a,b")
            single = [value for value in values if not value.startswith("[")]
            if single and isinstance(flat(resolve(self.base)).get(key), list):
                raise ConfigError(
                    f"{key} is a list, and {single[0]} is none",
                    where=f"--set {key}",
                    allowed="lists in brackets, one for each run",
                    hint=f"for one run: --set {key}=[{','.join(values)}]",
                )

    @property
    def regime(self) -> Regime:
        """The regime of the format arms."""
        regime = self.base.precision.regime
        if rules_alone(self.base.precision):
            return regime
        return "uniform" if regime in ("fp32", "bf16", "frozen") else regime

    def variations(self) -> tuple[Variation, ...]:
        """Every text and seed with every combination of the axes, the first text's and seed's first."""
        return _variations(self)

    def to_json(self) -> dict[str, object]:
        """Plain values for ``sweep.json``."""
        return resolve(self)

    @classmethod
    def from_json(cls, values: object, source: str = "sweep.json") -> SweepSpec:
        """The inverse of ``to_json``; UsageError where the values are none."""
        return from_plain(values, source, cls)

    def command_line(self) -> str:
        """The command that asks for this sweep, as far as it makes a difference."""
        words = ["altgrad", "sweep", "--order", ",".join(self.order).lower()]
        words += ["--seeds", ",".join(map(str, self.seeds))] if self.seeds != (self.base.seed,) else []
        for key, values in self.axes:
            words += ["--set", f"{key}={','.join(values)}"]
        words += ["--rules", ",".join(self.rules)] if self.rules else []
        words += ["--texts", ",".join(self.texts)] if self.texts else []
        if self.tune is not None:
            words += ["--tune", *([",".join(map(rate_word, self.tune))] if self.tune else [])]
        words += [] if self.retries else ["--no-retries"]
        words += ["--with-interventions"] if self.with_interventions else []
        words += ["--attribute"] if self.attribute else []
        words += ["--skip-equivalent"] if self.skip_equivalent else []
        said = changes(resolve(TrainConfig()), resolve(self.base))
        if not self.own_rates:
            said["learning_rate"] = as_word(self.base.learning_rate)
        words += [f"{key}={word}" for key, word in said.items()]
        return " ".join(map(shlex.quote, words))


@dataclass(frozen=True, kw_only=True, slots=True)
class Variation:
    """One text and seed with one choice on every axis."""

    seed: int | None
    """Part of the arms' names where a sweep has several seeds, else None."""
    text: str | None
    """Part of the arms' names where a sweep has several texts, else None."""
    rule: str | None
    """Of ``SweepSpec.rules``; None where they are no axis."""
    settings: tuple[Setting, ...]
    base: TrainConfig

    @property
    def format_parts(self) -> tuple[str, ...]:
        """Rule and text as parts of a format arm's name, if they are."""
        return tuple(part for part in (self.rule, self.text) if part is not None)

    @property
    def control_rule(self) -> str | None:
        """The rule of its controls, which follow ``OptimizerConfig.unrounded``, where rules are an axis."""
        return None if self.rule is None else self.base.optimizer.unrounded.rule

    @property
    def control_parts(self) -> tuple[str, ...]:
        """``format_parts`` of its controls."""
        return tuple(part for part in (self.control_rule, self.text) if part is not None)

    @property
    def control_settings(self) -> tuple[Setting, ...]:
        """The settings that a control notices: it rounds nothing of the format under study."""
        return tuple(setting for setting in self.settings if noticed_by_control(setting[0]))

    @property
    def named_settings(self) -> tuple[Setting, ...]:
        """The settings that an arm's name has to tell; its regime stands there anyway."""
        return tuple(setting for setting in self.settings if setting[0] != "precision.regime")


@lru_cache(maxsize=16)
def _variations(spec: SweepSpec) -> tuple[Variation, ...]:
    """Read once for a sweep: every look at its plan asks for them again."""
    base = replace(spec.base, precision=replace(spec.base.precision, regime=spec.regime))
    combinations = list(product(*([(key, value) for value in values] for key, values in spec.axes)))
    rules: tuple[str | None, ...] = spec.rules or (None,)
    texts: dict[str, str] = text_words(spec.texts)
    return tuple(
        Variation(
            seed=seed if len(spec.seeds) > 1 else None,
            text=texts[text] if text is not None and len(texts) > 1 else None,
            rule=rule,
            settings=settings,
            base=with_overrides(
                _on_text(replace(base, seed=seed), text),
                [*_of_rule(spec, rule), *(f"{key}={value}" for key, value in settings)],
            ),
        )
        for text in (spec.texts or (None,))
        for seed in spec.seeds
        for rule in rules
        for settings in combinations
    )


def _on_text(base: TrainConfig, text: str | None) -> TrainConfig:
    """``base`` on ``text`` of ``SweepSpec.texts``."""
    if text is None:
        return base
    return replace(base, data=replace(base.data, path=None if text == EMBEDDED else text))


def _of_rule(spec: SweepSpec, rule: str | None) -> list[str]:
    """The overrides that ``rule`` of ``spec`` stands for."""
    name = spec.base.optimizer.rule if rule is None else rule.removesuffix(ROUNDED_STOCHASTICALLY)
    overrides = [] if rule is None else [f"optimizer.rule={name}"]
    if rule is not None and rule.endswith(ROUNDED_STOCHASTICALLY):
        overrides.append("precision.rounding=stochastic")
    if spec.own_rates and (spec.rules or spec.tune is not None):
        overrides.append(f"learning_rate={default_rate(name)}")
    return overrides


def parse_order(text: str) -> tuple[str, ...]:
    """``e5m2,e3m4`` -> canonical format names; FormatError names the one that is unknown."""
    return tuple(parse_format(name.strip()).name for name in text.split(",") if name.strip())


def parse_seeds(text: str) -> tuple[int, ...]:
    """``42,43`` -> the seeds; UsageError for what is not a whole number of 0 or more."""
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words or not all(word.isdecimal() for word in words):
        raise UsageError(f"not a list of seeds: {text!r}", where="--seeds", allowed="for example 42,43,44")
    return tuple(int(word) for word in words)


def parse_rules(text: str) -> tuple[str, ...]:
    """``adamw,eco+stochastic`` -> the rules; what is none of them the specification refuses."""
    return tuple(rule for word in text.split(",") if (rule := word.strip()))


def parse_texts(text: str) -> tuple[str, ...]:
    """``embedded,law.jsonl`` -> the texts; whether they are there is seen when they are read."""
    return parse_rules(text)


def parse_rates(text: str) -> tuple[float, ...]:
    """``2e-4,6e-4`` -> the rates, ascending, none for ``""``; UsageError for what is no number."""
    try:
        return tuple(sorted(float(word) for word in text.split(",") if word.strip()))
    except ValueError:
        raise UsageError(
            f"not a list of learning rates: {text!r}", where="--tune", allowed="for example 2e-4,6e-4,2e-3"
        ) from None


def parse_axes(texts: Sequence[str]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """``["learning_rate=2e-4,6e-4", "optimizer.betas=[0.9,0.95],[0.9,0.99]"]`` -> the axes, in order."""
    axes = []
    for text in texts:
        key, equals, values = text.partition("=")
        if not equals or not key.strip():
            raise ConfigError(
                f"not an axis: {text!r}", where="--set", allowed="--set learning_rate=2e-4,6e-4"
            )
        axes.append((key.strip(), _split(values)))
    return tuple(axes)


def _split(text: str) -> tuple[str, ...]:
    """The values between the commas that stand in no bracket."""
    values, depth = [""], 0
    for letter in text:
        depth += (letter in "[{") - (letter in "]}")
        if depth < 0:
            break
        if letter == "," and not depth:
            values.append("")
        else:
            values[-1] += letter
    if depth:
        raise ConfigError(
            f"a bracket without its other half: {text}",
            where="--set",
            allowed="--set optimizer.betas=[0.9,0.95],[0.9,0.99]",
        )
    return tuple(value.strip() for value in values if value.strip())
