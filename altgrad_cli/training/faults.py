"""Planted faults: ``KIND@STEP[@RANK][:MODULE[:ROLE]]``, to prove that the diagnosis names the place.

    nan, inf     one element becomes NaN or inf
    spike        one element becomes 2^100 in magnitude, finite in float32 and far outside every 8-bit format
    bitflip      the top exponent bit of one element flips (in the data: a bit of one token)
    amax         the amax history of one operand is divided by 2^20, so its next scale is far too small
    kill         the process is killed by SIGKILL

MODULE is a linear layer, ``data`` (the embedded batch) or ``optimizer`` (the update rule's first slot, as
AdamW's m). ROLE is ``weights``, ``activations`` or ``gradients`` (struck before its rounding, in that step
only), ``stored_weights`` (the updated parameter, before it is checked; bitflip: the parameter before the
step) or ``optimizer_state``. What is left out, and which element is struck, follows from a hash of the
fault's text and the seed, so that a replay strikes the same place.

Under several ranks a fault strikes where it would strike in one process, on the rank that has the place. One
that names a RANK strikes among that rank's rows of the data, activations or gradients, or kills that process.
"""

from __future__ import annotations

import hashlib
import os
import re
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from altgrad_cli.config.precision import OPERAND_ROLES, ROLES, Role
from altgrad_cli.errors import ConfigError, nearest
from altgrad_cli.subjects.subject import Batch
from altgrad_cli.surgery.linear import Tap
from altgrad_cli.surgery.precision_plan import PrecisionPlan
from altgrad_cli.training.parallel.ranks import ALONE, Ranks
from altgrad_cli.training.state import TrainState
from altgrad_cli.training.update import CandidateUpdate

KINDS = ("nan", "inf", "spike", "amax", "bitflip", "kill")
DATA, OPTIMIZER = "data", "optimizer"
SPIKE = 2.0**100
AMAX_DIVISOR = 2.0**20
SYNTAX = "KIND@STEP[@RANK][:MODULE[:ROLE]], for example nan@5:blocks.0.attn.c_attn:gradients"
_PATTERN = re.compile(
    r"(?P<kind>[^@:]+)@(?P<step>[^:@]+)(?:@(?P<rank>[^:]+))?(?::(?P<module>[^:]+)(?::(?P<role>[^:]+))?)?"
)
_EXPONENT_TOP_BIT = 1 << 30
_SPLIT_ROLES: tuple[Role, ...] = ("activations", "gradients")
"""Operands of which a rank sees its own rows."""


@dataclass(frozen=True, slots=True)
class Injection:
    """One planted fault; ``module`` and ``role`` are None where the text leaves them open."""

    text: str
    kind: str
    step: int
    module: str | None = None
    role: Role | None = None
    rank: int | None = None


def parse_injection(text: str, last_step: int | None = None) -> Injection:
    """The fault that ``text`` describes.

    Raises:
        ConfigError: it does not follow the syntax, or could not strike in a run of ``last_step`` steps.
    """
    found = _PATTERN.fullmatch(text.strip())
    if found is None:
        raise ConfigError(f"not a fault: {text!r}", where="inject", allowed=SYNTAX)
    kind, step, module, role = found["kind"].lower(), found["step"], found["module"], found["role"]
    if kind not in KINDS:
        raise _unknown("fault", kind, KINDS)
    if not (step.isascii() and step.isdigit() and int(step) >= 1):
        raise ConfigError(f"{step!r} is not a step", where="inject", allowed=f"1 or more, as in {SYNTAX}")
    if last_step is not None and int(step) > last_step:
        raise ConfigError(
            f"{text.strip()} cannot happen in a run of {last_step} steps",
            where="inject",
            allowed=f"a step from 1 to {last_step}",
        )
    if role is not None and role not in ROLES:
        raise _unknown("role", role, ROLES)
    rank = found["rank"]
    if rank is not None:
        _check_rank(rank, kind, module, role)
    if kind == "kill" and module is not None:
        raise ConfigError("kill strikes the whole process", where="inject", allowed="kill@STEP")
    if kind == "amax" and (module in (DATA, OPTIMIZER) or (role is not None and role not in OPERAND_ROLES)):
        raise ConfigError(
            "only operands of linear layers have an amax history",
            where="inject",
            allowed=", ".join(OPERAND_ROLES),
        )
    if module in (DATA, OPTIMIZER) and role is not None:
        raise ConfigError(f"{module!r} takes no role", where="inject", allowed=f"{kind}@{step}:{module}")
    at = None if rank is None else int(rank)
    return Injection(text.strip(), kind, int(step), module, role, at)  # type: ignore[arg-type]


def _check_rank(rank: str, kind: str, module: str | None, role: str | None) -> None:
    if not (rank.isascii() and rank.isdigit()):
        raise ConfigError(f"{rank!r} is not a rank", where="inject", allowed=f"0 or more, as in {SYNTAX}")
    if kind == "amax" or module == OPTIMIZER or role not in (None, *_SPLIT_ROLES):
        raise ConfigError(
            "what every rank holds alike cannot be struck on one",
            where="inject",
            allowed=f"kill, {DATA}, {', '.join(_SPLIT_ROLES)}",
        )


def _unknown(what: str, word: str, known: Sequence[str]) -> ConfigError:
    guess = nearest(word, known)
    return ConfigError(
        f"unknown {what}: {word!r}",
        where="inject",
        allowed=", ".join(known),
        hint=f"did you mean {guess}?" if guess else None,
    )


def resolve_injections(
    texts: Sequence[str],
    plan: PrecisionPlan,
    seed: int,
    *,
    after: int = 0,
    last_step: int | None = None,
    ranks: int = 1,
) -> tuple[Injection, ...]:
    """The faults of ``last_step`` steps on ``ranks`` processes, open places filled in, every name checked.

    Those up to step ``after`` are past; they stay as they were written.

    Raises:
        ConfigError: a fault that does not parse, cannot happen under ``plan``, or names a layer that is not
            there.
    """
    faults = [parse_injection(text, last_step) for text in texts]
    for fault in faults:
        if fault.step > after and (fault.rank or 0) >= ranks:
            raise ConfigError(
                f"{fault.text} cannot happen: there is no rank {fault.rank}",
                where="inject",
                allowed=f"a rank from 0 to {ranks - 1}",
            )
    return tuple(_resolve(fault, plan, seed) if fault.step > after else fault for fault in faults)


def _resolve(injection: Injection, plan: PrecisionPlan, seed: int) -> Injection:
    if injection.kind == "kill" or injection.module in (DATA, OPTIMIZER):
        return injection
    module, role = injection.module, injection.role
    kinds = {layer.name: layer.kind for layer in plan.layers}
    open_to = OPERAND_ROLES if injection.rank is None else _SPLIT_ROLES
    candidates: dict[str, Sequence[Role]] = {
        layer.name: open_to if layer.kind != "embedding" else OPERAND_ROLES[:1] for layer in plan.layers
    }
    if module is not None and module not in candidates:
        raise _unknown("module", module, [*candidates, DATA, OPTIMIZER])
    if injection.kind == "amax":
        if injection.step == 1:
            raise ConfigError(
                f"{injection.text} cannot happen: the amax histories begin with the first step",
                where="inject",
                allowed="amax@2 or later",
            )
        candidates = {layer.name: roles for layer in plan.layers if (roles := layer.delayed_roles)}
        named = candidates if module is None else {module: candidates.get(module, ())}
        if not any(role in kept or (role is None and kept) for kept in named.values()):
            raise _no_history(injection, candidates)
    if module is None:
        hidden = [name for name in candidates if kinds[name] != "head"] or list(candidates)
        module = hidden[chosen_index(injection, seed, len(hidden), "module")]
    if role is None:
        open_roles = candidates[module]
        role = open_roles[chosen_index(injection, seed, len(open_roles), "role")]
    if kinds[module] == "embedding" and role in _SPLIT_ROLES:
        raise ConfigError(f"{module} is an embedding: it has no {role} that are rounded", where="inject")
    if role == "stored_weights" and kinds[module] == "head":
        raise ConfigError(f"{module} is a head: its weights are not stored on a grid", where="inject")
    return replace(injection, module=module, role=role)


def _no_history(injection: Injection, kept: Mapping[str, Sequence[Role]]) -> ConfigError:
    """The refusal of an amax fault where nothing of what it names keeps a history."""
    of_module = kept.get(injection.module or "", ())
    if not kept:
        allowed = "a run with an operand under precision.scaling.recipe: delayed"
    elif of_module:
        allowed = f"{injection.module}:{', '.join(of_module)}"
    else:
        allowed = ", ".join(kept)
    return ConfigError(
        f"{injection.text} cannot happen: no such operand keeps an amax history in this run",
        where="inject",
        allowed=allowed,
    )


def check_data_faults(injections: Sequence[Injection], model: nn.Module, batch: Batch) -> None:
    """See that faults on the data can strike batches such as ``batch``.

    Raises:
        ConfigError: it is of whole numbers, and the model has no embedding of which it could be.
    """
    for injection in injections:
        beside = batch.x.is_floating_point() or injection.kind == "bitflip" or injection.module != DATA
        if not beside and not list(_first_embedding(model)):
            raise ConfigError(
                f"{injection.text} cannot happen: the batch is of whole numbers, without an embedding",
                where="inject",
                allowed=f"bitflip@{injection.step}:{DATA}, or a fault in one of its layers",
            )


def chosen_index(injection: Injection, seed: int, length: int, what: str = "element") -> int:
    """A place in [0, length), the same in every process for one fault and seed."""
    digest = hashlib.sha256(f"altgrad/{seed}/{injection.text}/{what}".encode()).digest()
    return int.from_bytes(digest[:8], "little") % length


@dataclass(slots=True)
class Faults:
    """The planted faults of one run, and what those that were due did.

    The engine calls, in this order: ``before_step``; ``alter_batch``; ``active`` around the main pass (and
    around every traced or replayed one, never around the shadow); ``alter_update`` on the candidate.
    """

    injections: tuple[Injection, ...]
    seed: int
    ranks: int = 1
    """How many shares a batch had when the faults were planted; a replay takes them all in one process."""
    struck: list[dict[str, Any]] = field(default_factory=list)
    """One entry per fault that was carried out: text, step, module, role, index, before, after."""

    def due(self, step: int) -> list[Injection]:
        """The faults of step number ``step``."""
        return [injection for injection in self.injections if injection.step == step]

    def before_step(self, state: TrainState, step: int) -> None:
        """Strike what lies in the state: amax histories, moments, stored bits; or kill the process."""
        for injection in self.due(step):
            if injection.kind == "kill":
                if injection.rank is None or injection.rank == state.ranks.rank:
                    os.kill(os.getpid(), signal.SIGKILL)
            elif injection.kind == "amax":
                self._shrink_history(state, injection)
            elif injection.module == OPTIMIZER or injection.role == "optimizer_state":
                self._strike_span(state, injection, next(iter(state.optimizer.slots.values())))
            elif injection.kind == "bitflip" and injection.role == "stored_weights":
                self._strike_span(state, injection, state.flat.values)

    def alter_batch(self, batch: Batch, step: int) -> Batch:
        """The batch, struck where a fault on ``data`` is due; token ids only by a ``bitflip``.

        Of the others it is the embedded batch that is struck, by ``active``.
        """
        for injection in self.due(step):
            if injection.module != DATA:
                continue
            if batch.x.is_floating_point():
                batch = replace(batch, x=self._strike(injection, batch.x.clone(), "data", ALONE))
            elif injection.kind == "bitflip":
                x = batch.x.clone()
                flat = x.view(-1)
                index = self._place(injection, flat.numel())
                before = int(flat[index])
                flat[index] = before ^ 1  # the lowest bit keeps an even-sized vocabulary closed
                self._record(injection, "data", index, before, int(flat[index]))
                batch = replace(batch, x=x)
        return batch

    @contextmanager
    def active(self, state: TrainState, batch: Batch, step: int) -> Iterator[Tap | None]:
        """Inside the block the faults of the pass are live; yields the tap to hand to ``run_pass``.

        What looks at the pass by hooks of its own sees what was struck.
        """
        due = self.due(step)
        hooks = [
            embedding.register_forward_hook(self._embedding_hook(injection, state.ranks), prepend=True)
            for injection in due
            if injection.module == DATA and injection.kind != "bitflip"
            if not batch.x.is_floating_point()
            for embedding in _first_embedding(state.model)
        ]
        operands = {
            (injection.module, injection.role): injection
            for injection in due
            if injection.kind not in ("amax", "kill") and injection.role in OPERAND_ROLES
        }
        names = state.layer_names

        def tap(layer: int, role: Role, x: Tensor) -> Tensor:
            injection = operands.get((names[layer], role))
            ranks = state.ranks if role in _SPLIT_ROLES else ALONE
            return x if injection is None else self._strike(injection, x.clone(), role, ranks)

        try:
            yield tap if operands else None
        finally:
            for hook in hooks:
                hook.remove()

    def alter_update(self, state: TrainState, update: CandidateUpdate, step: int) -> CandidateUpdate:
        """The candidate, one updated weight struck where a fault on ``stored_weights`` is due."""
        for injection in self.due(step):
            if injection.role == "stored_weights" and injection.kind in ("nan", "inf", "spike"):
                self._strike_span(state, injection, update.unrounded)
                if update.rounded is not None and injection.kind == "spike":
                    self._strike_span(state, injection, update.rounded)
                update = replace(update, finite=update.finite and injection.kind == "spike")
        return update

    def _embedding_hook(self, injection: Injection, ranks: Ranks) -> Callable[..., Tensor]:
        return lambda module, inputs, output: self._strike(injection, output.clone(), "data", ranks)

    def _strike_span(self, state: TrainState, injection: Injection, buffer: Tensor) -> None:
        """Strike inside the layer's weight span of a flat buffer, or anywhere for ``optimizer``."""
        flat = state.flat
        start, end = 0, flat.bounds[-1]
        if injection.module is not None and injection.module != OPTIMIZER:
            number = flat.names.index(state.parameter_of(injection.module))
            start, end = flat.bounds[number], flat.bounds[number + 1]
        role = injection.role or "optimizer_state"
        with torch.no_grad():
            self._strike(injection, buffer[start:end], role, ALONE)

    def _place(self, injection: Injection, length: int) -> int:
        """Flat index of the element to strike in a whole tensor."""
        if injection.rank is None:
            return chosen_index(injection, self.seed, length)
        part = length // self.ranks
        return injection.rank * part + chosen_index(injection, self.seed, part)

    def _strike(self, injection: Injection, x: Tensor, role: str, ranks: Ranks) -> Tensor:
        """``x``, struck where it holds the place; it is this rank's part of a tensor."""
        flat = x.detach().view(-1)
        place = self._place(injection, flat.numel() * ranks.count)
        index = place - flat.numel() * ranks.rank
        if not 0 <= index < flat.numel():
            return x
        before = float(flat[index])
        with torch.no_grad():
            if injection.kind == "bitflip":
                flat[index : index + 1].view(torch.int32).bitwise_xor_(_EXPONENT_TOP_BIT)
            else:
                flat[index] = {"nan": torch.nan, "inf": torch.inf, "spike": SPIKE}[injection.kind]
        self._record(injection, role, place, before, float(flat[index]))
        return x

    def _shrink_history(self, state: TrainState, injection: Injection) -> None:
        assert injection.role is not None
        layer, role = state.layer_names.index(injection.module or ""), OPERAND_ROLES.index(injection.role)
        history = state.scales.histories[layer][role]
        if history is None or not len(history):
            return  # nothing to strike: the format was changed after the last step, and the scales with it
        before = history.get_amax()
        history.values = [value / AMAX_DIVISOR for value in history.values]
        self._record(injection, injection.role, None, before, history.get_amax())

    def _record(
        self, injection: Injection, role: str, index: int | None, before: float, after: float
    ) -> None:
        entry = {
            "injection": injection.text,
            "step": injection.step,
            "module": injection.module,
            "role": role,
            "index": index,
            "before": before,
            "after": after,
        }
        self._add(entry)

    def _add(self, entry: dict[str, Any]) -> None:
        if not any(known["injection"] == entry["injection"] for known in self.struck):
            self.struck.append(entry)

    def share_what_struck(self, ranks: Ranks, step: int) -> None:
        """Let every rank know what the faults of ``step`` did on the others."""
        if self.due(step) and not ranks.alone:
            for entries in ranks.objects(self.struck):
                for entry in entries:
                    self._add(entry)


def _first_embedding(model: nn.Module) -> Iterator[nn.Embedding]:
    """What takes the tokens; nothing where there is none."""
    return islice((module for module in model.modules() if isinstance(module, nn.Embedding)), 1)
