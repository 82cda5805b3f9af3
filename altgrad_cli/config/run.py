"""Everything a run depends on, as one frozen tree.

The same tree gives the same bits: nothing outside it (cores, clock, environment) reaches the numbers.
``loading`` turns YAML and ``key=value`` into it; this file says what is allowed.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field, replace
from typing import Literal

from altgrad_cli.config.data import DataConfig
from altgrad_cli.config.limits import check_format, check_positive, check_whole_numbers, require
from altgrad_cli.config.model import ModelConfig
from altgrad_cli.config.precision import PrecisionConfig
from altgrad_cli.config.update_rules import RULES, BaseRule, check_rule
from altgrad_cli.errors import ConfigError, nearest

SUBJECTS = ("gpt", "eurovoc")
"""Those that altgrad has itself."""
OBSERVED = "observed"
"""A model in a loop of the user's own, which nobody has named."""
_CODE = re.compile(r"(?:[^:]+\.py|[A-Za-z_][\w.]*):[A-Za-z_]\w*")
Schedule = Literal["constant", "cosine", "linear"]


MOST_STEPS = 10**9
"""Also the ``max_steps`` of an observed loop, which alone knows its end."""
MOST_TOKENS_A_STEP = 2**24
_RUNTIME_LIMITS = {
    "threads": (1, 1024),
    "evaluation_interval": (1, MOST_STEPS),
    "evaluation_batches": (1, 100_000),
    "checkpoint_interval": (0, MOST_STEPS),
}
_RUN_LIMITS = {
    "seed": (0, 2**63 - 1),
    "batch_size": (1, 65_536),
    "max_steps": (1, MOST_STEPS),
    "diagnostic_interval": (1, MOST_STEPS),
    "shadow_interval": (1, MOST_STEPS),
    "emergency_shift_nan_patience": (1, MOST_STEPS),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerConfig:
    """The update rule and its learning-rate schedule. Decay acts on matrices only."""

    rule: str = "adamw"
    """One of ``update_rules.RULES``, or ``torch.optim.NAME``."""
    base: BaseRule = "adamw"
    """The rule inside ``compensated``, ``eco`` and ``stiff_gradient``."""
    residual: str = "float32"
    """What ``compensated`` keeps its residual in: ``float32``, or a format; one of 8 bits has a scale."""
    geometric_rate: float = 160.0
    """Codes (``code_step``) or octaves (``madam``) a unit of learning rate and of Adam's direction."""
    max_codes: float = 10.0
    """The most codes or octaves that those two move a weight in a step."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Of ``sgd`` the first is the momentum."""
    eps: float = 1e-8
    weight_decay: float = 0.1
    warmup_steps: int = 100
    """Steps over which the rate rises linearly to ``learning_rate``; 0 starts at the full rate."""
    schedule: Schedule = "constant"
    min_learning_rate_ratio: float = 0.1
    """What is left of the rate at ``max_steps`` under ``cosine`` and ``linear``."""
    gradient_clip: float | None = None
    """L2 norm above which the whole gradient is scaled down; None leaves it alone."""

    def __post_init__(self) -> None:
        check_rule(self.rule)
        check_format(self.residual, "optimizer.residual", unrounded=True)
        check_positive("optimizer.geometric_rate", self.geometric_rate)
        check_positive("optimizer.max_codes", self.max_codes)
        only_adamw = self.rule in ("code_step", "madam") and self.base != "adamw"
        if only_adamw or (self.rule == "eco" and self.base == "lion"):
            raise ConfigError(
                f"{self.rule} is not defined on {self.base}",
                where="optimizer.base",
                allowed="adamw, sgd" if self.rule == "eco" else "adamw",
                hint="leave optimizer.base at adamw",
            )
        require(
            self.rule != "eco" or self.betas[0] > 0,
            "optimizer.betas",
            self.betas,
            "a first beta above 0: eco puts its error into the momentum",
        )
        require(all(0 <= b < 1 for b in self.betas), "optimizer.betas", self.betas, "two numbers in [0, 1)")
        check_positive("optimizer.eps", self.eps)
        if self.weight_decay:
            check_positive("optimizer.weight_decay", self.weight_decay, ", or 0")
        check_whole_numbers(self, "optimizer.", {"warmup_steps": (0, MOST_STEPS)})
        require(
            0 <= self.min_learning_rate_ratio <= 1,
            "optimizer.min_learning_rate_ratio",
            self.min_learning_rate_ratio,
            "a number in [0, 1]",
        )
        if self.gradient_clip is not None:
            check_positive("optimizer.gradient_clip", self.gradient_clip, ", or null for no clip")

    @property
    def unrounded(self) -> OptimizerConfig:
        """The same where no weight is stored on a grid: a rule that only gives back is its base there."""
        gives_back = self.rule in RULES and RULES[self.rule].gives_back
        rule = self.base if gives_back else self.rule
        base = self.base if rule == "stiff_gradient" else "adamw"
        return replace(self, rule=rule, base=base, residual="float32")

    @property
    def steps_are_adamws(self) -> bool:
        """Whether the predictions of stall, which are made of AdamW's steps, speak of this rule."""
        return self.rule == "adamw"


@dataclass(frozen=True, kw_only=True, slots=True)
class WandbConfig:
    """Where the Weights & Biases logger writes; ``disabled`` never imports wandb."""

    mode: Literal["online", "offline", "disabled"] = "disabled"
    project: str = "altgrad"
    name: str | None = None
    """None takes the run folder's name."""
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class RuntimeConfig:
    """How the run is carried out. ``threads`` and ``compile`` can change bits, so they are recorded."""

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    threads: int = 1
    """torch's intra-op threads; part of the config so that results do not depend on the machine's cores."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """What the processes of torchrun share beside the batch: ``ddp`` nothing, each keeps whole weights.
    ``fsdp``, which would share them too, is refused so far. Without torchrun it means nothing."""
    compile: bool = False
    """torch.compile for forward, backward and the quantizer; sums take another order, so bits differ."""
    evaluation_interval: int = 50
    evaluation_batches: int = 16
    checkpoint_interval: int = 100
    """Steps between regular checkpoints; 0 keeps none but the anomalies."""
    capture_at: tuple[int, ...] = ()
    """Steps before whose update a forensic checkpoint is written on request."""

    def __post_init__(self) -> None:
        check_whole_numbers(self, "runtime.", _RUNTIME_LIMITS)


@dataclass(frozen=True, kw_only=True, slots=True)
class MonitorWindow:
    """Narrows the metrics that match ``metric`` (a glob) to layers and steps; the first match wins."""

    metric: str
    layers: str = "*"
    start: int = 0
    end: int | None = None
    interval: int = 1

    def __post_init__(self) -> None:
        check_whole_numbers(self, "monitors.windows.", {"interval": (1, MOST_STEPS)})


@dataclass(frozen=True, kw_only=True, slots=True)
class MonitorConfig:
    """What is measured beside the loss. Measuring never changes training."""

    enabled: bool = True
    windows: tuple[MonitorWindow, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """One training run."""

    subject: str = "gpt"
    """``gpt`` predicts the next token; ``eurovoc``, its body under another head, a document's labels;
    ``module:function`` or ``file.py:function``, which the command line must name, is a model of your own."""
    seed: int = 42
    batch_size: int = 12
    learning_rate: float = 6e-4
    max_steps: int = 500
    stop: Literal["max_steps", "plateau"] = "max_steps"
    """``plateau`` also ends when validation loss has not improved over five evaluations."""
    fp8_format: str = "E5M2"
    use_shadow: bool = True
    shadow_interval: int = 1
    """Steps from one float32 shadow to the next, which costs a second forward and backward pass."""
    nan_policy: Literal["auto", "first", "patience"] = "auto"

    enable_partition_clipping: bool = False
    partition_clip_base: float = 1.0
    enable_emergency_shift: bool = False
    emergency_shift_nan_patience: int = 3
    emergency_shift_stall_threshold: float = 0.5

    diagnostic_interval: int = 50
    log_stiffness: bool = False
    log_grid_alignment: bool = False
    log_ulp: bool = False
    log_rank: bool = True
    """Singular values of every layer: 60 ms each interval for the default model, minutes for a large one."""

    inject: tuple[str, ...] = ()
    """Planted faults, ``KIND@STEP[:MODULE[:ROLE]]``; a run that has any says so everywhere."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    precision: PrecisionConfig = field(default_factory=PrecisionConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    monitors: MonitorConfig = field(default_factory=MonitorConfig)
    wandb: WandbConfig = field(default_factory=WandbConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)

    def __post_init__(self) -> None:
        _check_subject(self.subject)
        check_format(self.fp8_format, "fp8_format")
        check_whole_numbers(self, "", _RUN_LIMITS)
        check_positive("learning_rate", self.learning_rate)
        check_positive("partition_clip_base", self.partition_clip_base)
        tokens = self.batch_size * self.model.block_size
        require(
            tokens <= MOST_TOKENS_A_STEP,
            "batch_size, model.block_size",
            (self.batch_size, self.model.block_size),
            f"at most {MOST_TOKENS_A_STEP:,} tokens a step; this would be {tokens:,}",
        )
        require(
            all(1 <= step <= self.max_steps for step in self.runtime.capture_at),
            "runtime.capture_at",
            list(self.runtime.capture_at),
            f"steps from 1 to max_steps ({self.max_steps})",
        )
        require(
            0 <= self.emergency_shift_stall_threshold <= 1,
            "emergency_shift_stall_threshold",
            self.emergency_shift_stall_threshold,
            "a rate in [0, 1]",
        )
        if self.enable_partition_clipping and self.precision.scaling.recipe == "amax":
            raise ConfigError(
                "range clipping cannot act under amax scaling: the scale follows each tensor, "
                "so its overflow rate is 0 by construction",
                where="enable_partition_clipping, precision.scaling.recipe",
                allowed="precision.scaling.recipe: delayed or none",
                hint="use precision.scaling.recipe=delayed, or leave the clipping off",
            )
        if self.enable_emergency_shift and not self.monitors.enabled:
            raise ConfigError(
                "the emergency shift acts on the stall rate, which is not measured with the monitors off",
                where="enable_emergency_shift, monitors.enabled",
                allowed="monitors.enabled: true",
                hint="use monitors.enabled=true, or leave the shift off",
            )
        if self.enable_emergency_shift and self.nan_policy == "first":
            raise ConfigError(
                "nan_policy 'first' stops before the emergency shift could see "
                f"{self.emergency_shift_nan_patience} non-finite batches in a row",
                where="nan_policy, enable_emergency_shift",
                allowed="nan_policy: auto or patience",
                hint="leave nan_policy at auto",
            )


def is_code(subject: str) -> bool:
    """Whether a subject is a function of the user's own, and not one that altgrad has."""
    return subject not in SUBJECTS


def code_words(subject: str) -> tuple[str, str]:
    """How a command line names the subject of a checkpoint, and of a run; "" where it need not.

    Of a loop that nobody has named, the words leave the name to be filled in.
    """
    word = "MODULE:FUNCTION" if subject == OBSERVED else shlex.quote(subject)
    return (f" --subject {word}", f" subject={word}") if is_code(subject) else ("", "")


def _check_subject(subject: str) -> None:
    if subject in (*SUBJECTS, OBSERVED) or _CODE.fullmatch(subject):
        return
    guess = nearest(subject, SUBJECTS)
    raise ConfigError(
        f"subject = {subject!r} is not allowed",
        where="subject",
        allowed=f"{', '.join(SUBJECTS)}, or a function of your own: module:function or file.py:function",
        hint=f"did you mean {guess}?" if guess else None,
    )
