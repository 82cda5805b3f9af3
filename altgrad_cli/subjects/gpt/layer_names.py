"""What the linear layers of the GPT are, whatever its head, by name; no torch is needed to know it."""

from __future__ import annotations

from collections.abc import Iterable

from altgrad_cli.surgery.precision_plan import LayerKind


def layer_kind(name: str) -> LayerKind:
    """The kind of the linear layer ``name``."""
    if name in ("lm_head", "label_head"):
        return "head"
    return "normalised" if name.endswith((".c_attn", ".c_fc")) else "hidden"


def layer_kinds(names: Iterable[str]) -> dict[str, LayerKind]:
    """What each of ``names`` is."""
    return {name: layer_kind(name) for name in names}
