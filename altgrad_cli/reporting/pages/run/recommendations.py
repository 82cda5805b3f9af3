"""What follows from a measured cause. Each piece of advice names the measurement that it rests on."""

from __future__ import annotations

from altgrad_cli.metrics.catalogue import heading_of
from altgrad_cli.reporting.blocks.document import Section, listed, section
from altgrad_cli.reporting.evidence.quantities import ranked_layers
from altgrad_cli.reporting.evidence.scope import Scope
from altgrad_cli.reporting.evidence.windows import telling_window
from altgrad_cli.runs.record import RunRecord
from altgrad_cli.sweeps.ablation.roles import SCALED, STOCHASTIC

_ADVICE = {
    "nonfinite": (
        (
            "Open the forensic checkpoint: it holds the state before the step, its batch and the trace of "
            "its tensors, and replays the step under other settings."
        ),
        (
            "Saturating instead of IEEE overflow, and a wider scale (`precision.scaling.margin`), keep "
            "rounding itself from producing infinities."
        ),
    ),
    "diverged": (
        (
            "Lower the learning rate, or warm up longer, before the format is judged: divergence at this "
            "rate says little about the grid."
        ),
    ),
    "underflowed": (
        (
            "Scale the tensors: `precision.scaling.recipe=delayed` (or `amax`) puts the largest value at "
            "the top of the range, so that fewer of the small ones are rounded to zero."
        ),
        "If they are scaled already, give the role that underflows a format with more exponent bits.",
    ),
    "saturated": (
        (
            "Widen the scale (`precision.scaling.margin`, a power of two) or let it follow the tensor "
            "(`precision.scaling.recipe=amax`)."
        ),
        "Or keep the layers that overflow in BF16 by a rule in `precision.rules`.",
    ),
    "stalled": (
        (
            "Round the update stochastically (`precision.rounding=stochastic`): an update smaller than "
            "half the gap then arrives in expectation."
        ),
        "Or keep float32 master weights (`precision.regime=standard`).",
        "A larger learning rate moves more codes too, but changes the training itself.",
    ),
    "slowed": (
        (
            "Part of the update is lost below half the gap: stochastic rounding of it "
            "(`precision.rounding=stochastic`) or float32 master weights (`precision.regime=standard`) "
            "give it back."
        ),
    ),
    "unexplained": (
        (
            "None of the measured rates reaches the threshold of a cause; run the role factorial "
            "(`altgrad sweep --attribute`) before anything is changed."
        ),
    ),
}
_WORST = {
    "underflowed": "underflow_rate/gradients",
    "saturated": "overflow_rate/gradients",
    "stalled": "bit_stall_rate",
    "slowed": "bit_stall_rate",
}
"""The metric by which layers are worst, for each cause."""


def recommendation(scope: Scope, log: RunRecord) -> Section | None:
    """Advice by the measured cause; where a run has tested it, with what that run measured."""
    cause = scope.evidence.judged(log).verdict.cause
    if cause is None:
        return None
    lines = [*_ADVICE[cause], *_tested(scope, log), *_worst_layers(scope, log, cause)]
    return section("Recommendation", listed(lines))


def _tested(scope: Scope, log: RunRecord) -> list[str]:
    """What the runs that undo one thing measured, best first."""
    step = scope.evidence.judged(log).step
    if step is None:
        return []
    tests = [
        run
        for letters, run in scope.evidence.parts(log).items()
        if letters in (STOCHASTIC, SCALED, "WAG") and run is not log
    ]
    for run in scope.subjects:
        arm = scope.arm(run)
        if arm and arm.retry_of == log.name and arm.kind in ("retry", "intervened") and run not in tests:
            tests.append(run)
    found = [(rho, run) for run in tests if (rho := scope.evidence.recovered_fraction(run, step)) is not None]
    lines = []
    for _, run in sorted(found, key=lambda item: -item[0]):
        cite = scope.evidence.of(run)
        lines.append(
            f"Tested: `{run.name}` (regime {cite('regime')}, rounding {cite('config.precision.rounding')}) "
            f"reached rho {cite(f'recovered_fraction@{step}')} at step {cite(f'step@{step}')}, this run "
            f"{scope.evidence.of(log)(f'recovered_fraction@{step}')}."
        )
    return lines


def _worst_layers(scope: Scope, log: RunRecord, cause: str) -> list[str]:
    metric, window = _WORST.get(cause, ""), telling_window(log)
    layers = ranked_layers(log, metric, window.first, window.last)[:3]
    if not layers:
        return []
    n = scope.evidence.of(log)
    named = ", ".join(
        f"{n(f'worst_layer({metric}#{place}){window.range}')} ({n(f'mean({metric})[{layer}]{window.range}')})"
        for place, layer in enumerate(layers, start=1)
    )
    steps = n(f"window{window.range}")
    return [f"Layers to protect first, by {heading_of(metric)} over steps {steps}: {named}."]
