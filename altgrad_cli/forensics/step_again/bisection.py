"""The smallest set of layers that must go to BF16 for the step to survive.

A set that saves the step is narrowed by halving (QuickXplain; Junker, AAAI 2004): with k layers needed among
n it takes about k log(n / k) repetitions of the step. What it finds cannot lose any of its layers; where it
found more than one, smaller sets are then tried one by one as long as that stays affordable.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from math import comb

from altgrad_cli.forensics.step_again.variations import Trials, in_bf16

_AFFORDABLE = 150

Saves = Callable[[Sequence[str]], bool]


def minimal_set(candidates: Sequence[str], saves: Saves) -> tuple[str, ...] | None:
    """The smallest saving subset of ``candidates``; () where none is needed, None where none suffices.

    ``saves`` is taken to be monotone: adding a layer to a saving set does not spoil it.
    """
    if saves(()):
        return ()
    if not saves(candidates):
        return None
    narrowed = _explain((), (), tuple(candidates), saves, check=False)
    for size in range(1, len(narrowed)):
        if comb(len(candidates), size) > _AFFORDABLE:
            break
        for subset in combinations(candidates, size):
            if saves(subset):
                return subset
    return tuple(name for name in candidates if name in narrowed)


def _explain(
    base: tuple[str, ...], added: tuple[str, ...], open_: tuple[str, ...], saves: Saves, *, check: bool = True
) -> tuple[str, ...]:
    """The part of ``open_`` that ``base`` still needs; ``added`` is what was just put into ``base``."""
    if check and added and saves(base):
        return ()
    if len(open_) == 1:
        return open_
    half = len(open_) // 2
    left, right = open_[:half], open_[half:]
    needed_right = _explain((*base, *left), left, right, saves)
    needed_left = _explain((*base, *needed_right), needed_right, left, saves)
    return (*needed_left, *needed_right)


def minimal_bf16_layers(trials: Trials) -> tuple[str, ...] | None:
    """The smallest set of layers whose move to BF16 (float32 masters) lets the recorded step survive."""
    plan = trials.given.state.plan
    candidates = [layer.name for layer in plan.layers if any(fmt.name != "BF16" for _, fmt in layer.formats)]
    return minimal_set(candidates, lambda names: trials.outcome(in_bf16(plan, names)).survives)
