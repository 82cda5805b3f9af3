"""Sentences and tables that say which role of which layers does damage, and which rescue confirms it."""

from __future__ import annotations

from altgrad_cli.metrics.catalogue import heading_of
from altgrad_cli.reporting.blocks.document import Block, TableColumn, Text
from altgrad_cli.reporting.evidence.quantities import heading
from altgrad_cli.reporting.evidence.scope import Scope
from altgrad_cli.runs.record import RunRecord
from altgrad_cli.sweeps.ablation.layers import LayerAttribution

_MEASURES = {
    "zero_update_fraction": "the share of its updates that leave the weights as they were",
    "gradient_error": "the agreement of its gradient with the float32 shadow",
    "gradient_norm": "the length of its gradient at the first step",
}
_TROUBLE = {
    "underflow": "underflow to zero",
    "overflow": "overflow",
    "stall": "an update that does not arrive",
}
_SHOWN = {
    "zero_update_fraction": ("mean(zero_update_fraction)[{}]",),
    "gradient_error": ("mean(gradient_cosine)[{}]", "mean(gradient_norm_ratio)[{}]"),
    "gradient_norm": ("at(gradient_norm)[{}]@1",),
}
"""What a table shows of a loss, here and in the rescue."""


def layers_blocks(scope: Scope, log: RunRecord) -> list[Block]:
    """What is known of ``log``, a run with rules: one part for each role that is in trouble somewhere."""
    found = scope.evidence.layer_attributions(log)
    if not found:
        return [Text(_nothing(scope, log))]
    return [block for attribution in found for block in _blocks(scope, log, attribution)]


def _nothing(scope: Scope, log: RunRecord) -> str:
    cite = scope.evidence.cite
    return (
        f"In `{log.name}` (exceptions: {scope.evidence.of(log)('rules')}) nothing is named: in no layer does "
        f"a rounded role reach an underflow of {cite('rule: underflowed.from')}, an overflow of "
        f"{cite('rule: saturated.from')}, or an update transfer as low as {cite('rule: stalled.up_to')}."
    )


def _blocks(scope: Scope, log: RunRecord, found: LayerAttribution) -> list[Block]:
    arms = (arm for arm in scope.evidence.arms.values() if found.finished and arm.config == found.rescued)
    rescue = next((scope.evidence.run(arm.name) for arm in arms), None)
    layers = dict.fromkeys(
        [*(each.layer for each in found.troubled), *(loss.layer for loss in found.given_back)]
    )
    columns: list[str | TableColumn] = [
        f"mean({metric})[{{}}]" for metric in sorted({each.metric for each in found.troubled})
    ]
    for quantity in _SHOWN.get(found.measure, ()):
        columns.append(quantity)
        if rescue is not None:
            columns.append(TableColumn(f"{heading(quantity)}, rescued", f"{rescue.name}: {quantity}"))
    table = scope.evidence.table("layer", layers, columns, of=log.name)
    return [Text(_sentence(scope, log, found, rescue)), *([table] if table else [])]


def _sentence(scope: Scope, log: RunRecord, found: LayerAttribution, rescue: RunRecord | None) -> str:
    n = scope.evidence.of(log)
    role = found.role.replace("_", " ")
    shown = [each for each in found.troubled if not each.hidden]
    pick = min if shown[0].trouble == "stall" else max  # of update transfer the lowest is the worst
    worst = pick(shown, key=lambda each: each.rate)
    text = (
        f"In `{log.name}` (exceptions: {n('rules')}) the {role} show {_TROUBLE[worst.trouble]}: "
        f"{heading_of(worst.metric)} {n(f'mean({worst.metric})[{worst.layer}]')} in {worst.layer}, "
        f"mean over steps {n(f'window@1-{log.last_step}')}. "
    )
    if len(shown) < len(found.troubled):
        text += (
            "Layers without a rate were handed nothing but zeros; they show the same once the others are "
            "restored. "
        )
    if rescue is None:
        return text + "The rescue that would confirm it as a cause has not been run."
    if not found.confirmed:
        return text + (
            f"It is **not** named as a cause: with these {role} unrounded (`{rescue.name}`) nothing that "
            f"was lost comes back. {_loss(scope, log, found, rescue)}"
        )
    text += (
        f"The **{n(f'attributed_stage({found.role})')}** fails in "
        f"**{n(f'attributed_layers({found.role})')}**: "
        f"`{rescue.name}` leaves the {role} of the layers below unrounded and nothing else, "
    )
    loss = found.worst_loss
    text += (
        f"and gives back what {loss.layer} lost, by {_MEASURES[found.measure]}. "
        if loss is not None
        else "and gives the loss back, by far more than noise. "
    )
    return text + _loss(scope, log, found, rescue)


def _loss(scope: Scope, log: RunRecord, found: LayerAttribution, rescue: RunRecord) -> str:
    if found.loss_step is None:
        return "The two have no evaluation in common."
    step, n = found.loss_step, scope.evidence.of(log)
    difference = scope.evidence.cite(f"{log.name},{rescue.name}: difference at(validation_loss)@{step}")
    text = f"Validation loss less that of the rescue: {difference} at step {n(f'step@{step}')}"
    if found.noise is None:
        return text + "; what noise makes of it is not known without the controls."
    verdict = "more than" if found.seen_in_loss else "no more than"
    return f"{text}, {verdict} noise makes of it ({n('loss_noise')})."
