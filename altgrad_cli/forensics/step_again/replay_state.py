"""The state before the recorded step, rebuilt from the file, with the batch that the step was given."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast, get_args

import torch

from altgrad_cli.checkpoints.payload import TraceRecord, to_plain
from altgrad_cli.config.run import TrainConfig, is_code
from altgrad_cli.errors import AltgradError, CheckpointError
from altgrad_cli.forensics.opened import OpenedCheckpoint
from altgrad_cli.subjects.built_in import read_corpus, subject_of_weights, takes_batch
from altgrad_cli.subjects.corpus.tokens import Corpus
from altgrad_cli.subjects.subject import Batch, Subject
from altgrad_cli.subjects.yours import subject_named
from altgrad_cli.surgery.linear import PassSlot
from altgrad_cli.surgery.precision_plan import LayerKind
from altgrad_cli.training.environment import ranks_of
from altgrad_cli.training.faults import Faults, parse_injection, resolve_injections
from altgrad_cli.training.in_use.building import live_state
from altgrad_cli.training.in_use.calls import RecordedCall, RecordedCalls
from altgrad_cli.training.in_use.optimizer import LiveOptimizer, optimizer_again
from altgrad_cli.training.passes.eager import evaluation_loss
from altgrad_cli.training.saving.snapshot import next_batch, restore_snapshot
from altgrad_cli.training.state import TrainState, build_state
from altgrad_cli.training.tracing import trace_step
from altgrad_cli.updates.schedule import learning_rate_at

_MOST_THREADS = 1024


@dataclass(frozen=True, slots=True)
class ReplayState:
    """Everything that the recorded step needs."""

    state: TrainState
    batch: Batch | None
    """None where neither the file nor the corpus has it."""
    batch_origin: str
    """``recorded``, ``drawn again from the corpus``, or why there is none."""
    faults: Faults

    @property
    def step(self) -> int:
        """Number of the step."""
        return self.state.step + 1

    @property
    def learning_rate(self) -> float:
        """That of the step, by the schedule."""
        return learning_rate_at(self.state.config, self.step)

    def given_batch(self) -> Batch:
        """The batch of the step.

        Raises:
            AltgradError: there is none to run it with.
        """
        if self.batch is None:
            raise AltgradError("the step cannot be repeated without its batch", where=self.batch_origin)
        return self.batch

    def another_batch(self) -> Batch:
        """A batch that has nothing to do with the recorded one.

        Raises:
            AltgradError: there is no corpus to draw it from.
        """
        draw = self.state.subject.train
        if draw is None:
            raise AltgradError("the corpus is not at hand (--data PATH)")
        return draw(torch.Generator().manual_seed(1_000_003 + self.step))

    def trace(self) -> tuple[TraceRecord, ...]:
        """The step traced as its capture traced it, planted faults included; AltgradError without a batch."""
        return trace_step(self.state, self.given_batch(), faults=self.faults).records


def rebuild(opened: OpenedCheckpoint, data: str | None = None, named: str | None = None) -> ReplayState:
    """Build the network of the recorded config and put it where the checkpoint was taken.

    Args:
        data: where the user says the corpus lies; None follows no path and knows the embedded corpus only.
        named: the user's own subject that the command line names; one that only the file names is not loaded.

    Raises:
        CheckpointError: the payload does not fit its own configuration.
        UsageError: the subject is code that is not named, or cannot be used.
    """
    config = _runnable(opened.config)
    try:
        _check_size(config, opened)
        torch.set_num_threads(config.runtime.threads)
        subject, reason = _subject(opened, config, data, named)
        state = (
            build_state(config, subject)
            if opened.saved.observed is None
            else _in_use(opened, config, subject)
        )
    except CheckpointError:
        raise
    except (KeyError, AttributeError, TypeError, IndexError, RuntimeError) as error:
        raise CheckpointError(
            f"the checkpoint lacks a part of the state: {type(error).__name__} {error}",
            where=str(opened.path),
        ) from None
    restore_snapshot(state, to_plain(opened.saved))
    batch, origin = _batch(opened, state, reason)
    due = [text for text in config.inject if parse_injection(text).step == opened.step]
    ranks = ranks_of(opened.saved.environment)
    injections = resolve_injections(due, state.plan, config.seed, ranks=ranks)
    return ReplayState(state, batch, origin, Faults(injections, config.seed, ranks=ranks))


def _in_use(opened: OpenedCheckpoint, config: TrainConfig, subject: Subject) -> TrainState:
    """The state of an observed loop's model, which ``subject`` builds again: its layers round in place."""
    observed = opened.saved.observed
    assert observed is not None
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(config.seed)
        model = subject.build(torch.Generator().manual_seed(config.seed))
    parameters = dict(model.named_parameters())
    for name, value in observed.untrained.items():
        parameters[name].requires_grad_(False).copy_(value)
    groups = [{"names": group.names, "options": group.options} for group in observed.groups]
    make = optimizer_again(config.optimizer.rule, groups)
    kinds = {name: kind for name, kind in observed.kinds.items() if kind in get_args(LayerKind)}
    asked = replace(subject, kind=lambda name: cast(LayerKind, kinds[name]))
    state, rule, _ = live_state(config, model, make, asked, PassSlot())
    rule.live.alias()
    return state


def _check_size(config: TrainConfig, opened: OpenedCheckpoint) -> None:
    """A configuration cannot ask for a network larger than the tensors that came with it."""
    held = sum(tensor.numel() for tensor in opened.saved.weights.values())
    least = 0 if is_code(config.subject) else _least_weights(config)
    if config.runtime.threads > _MOST_THREADS:
        raise CheckpointError(
            f"the checkpoint asks for {config.runtime.threads} threads", where=str(opened.path)
        )
    if least > held:
        raise CheckpointError(
            "the checkpoint is of another network than its configuration", where=str(opened.path)
        )


def _least_weights(config: TrainConfig) -> int:
    model = config.model
    return model.block_weights + model.block_size * model.n_embd


def _subject(
    opened: OpenedCheckpoint, config: TrainConfig, data: str | None, named: str | None
) -> tuple[Subject, str]:
    """The subject, with its batches where they are those of the run; else why it has none."""
    if not is_code(config.subject):
        corpus, reason = _corpus(opened, config, data)
        return subject_of_weights(config, opened.saved.weights, corpus), reason
    # Nothing that the file states is followed: the function is told of the data that the user names.
    told = replace(config, data=replace(config.data, path=data, hub=None, cache_dir=None))
    observed = opened.saved.observed is not None
    subject = subject_named(told, named, say="--subject {}", observed=observed)
    assert subject is not None
    here = None if subject.corpus is None else subject.corpus.fingerprint
    if here == opened.saved.corpus.get("fingerprint"):
        return subject, ""
    reason = "the corpus here has another fingerprint (--data PATH says where the run's lies)"
    return replace(subject, train=None, validation=None, corpus=None), reason


def _runnable(config: TrainConfig) -> TrainConfig:
    device = config.runtime.device
    here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    device = device if here.get(device, True) else "cpu"
    return replace(config, runtime=replace(config.runtime, device=device, compile=False))


def _corpus(opened: OpenedCheckpoint, config: TrainConfig, data: str | None) -> tuple[Corpus | None, str]:
    """The run's corpus, if it is embedded or ``data`` says where it lies.

    A path, hub name or cache folder that the file itself states is never followed: the file is not trusted.
    """
    stated = config.data
    if data is None and (stated.path is not None or stated.hub is not None or stated.tokenizer != "bytes"):
        return None, "its corpus is not the embedded one: --data PATH says where it lies"
    try:
        wanted = replace(stated, path=data, hub=None, cache_dir=None)
        corpus = read_corpus(replace(config, data=wanted))
    except (AltgradError, OSError) as error:
        return None, f"the corpus is not at hand ({getattr(error, 'message', error)})"
    if opened.saved.corpus.get("fingerprint") != corpus.fingerprint:
        return None, "the corpus here has another fingerprint"
    return corpus, ""


def _batch(opened: OpenedCheckpoint, state: TrainState, reason: str) -> tuple[Batch | None, str]:
    """The batch of the step, and where it is from or why there is none.

    Raises:
        CheckpointError: the network cannot take the recorded one.
    """
    saved = opened.saved.batch
    if saved is None:
        drawn = next_batch(state)
        return drawn, "drawn again from the corpus" if drawn else f"not in the file, and {reason}"
    batch = Batch(x=saved.x, y=saved.y, offsets=saved.offsets)
    if saved.calls is not None and isinstance(state.optimizer, LiveOptimizer):
        calls = tuple(
            RecordedCall(cast(list[object], call.args), call.kwargs, call.stream, call.gradients)
            for call in saved.calls
        )
        batch = RecordedCalls(x=saved.x, y=saved.y, calls=calls, turned=state.optimizer.live.turned)
    own = is_code(state.config.subject)
    if not (_takes(state, batch) if own else takes_batch(state.config, opened.saved.weights, batch)):
        raise CheckpointError("the recorded batch is not one that the network can take")
    return batch, "recorded"


def _takes(state: TrainState, batch: Batch) -> bool:
    """Whether the user's model takes ``batch``, which may be forged: it is asked."""
    try:
        evaluation_loss(state, [batch])
    except Exception:  # noqa: BLE001  the code is a stranger's, and may raise anything
        return False
    return True
