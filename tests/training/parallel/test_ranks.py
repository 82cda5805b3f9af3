"""A run on several ranks, forked from the test and joined over gloo, against one process."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from altgrad_cli.checkpoints.file import VerifiedCheckpoint
from altgrad_cli.config.run import TrainConfig
from altgrad_cli.errors import ConfigError, UsageError
from altgrad_cli.rounding.grid import operand_grid
from altgrad_cli.subjects.built_in import load_subject
from altgrad_cli.subjects.subject import Batch, Subject
from altgrad_cli.surgery.linear import ACTIVATIONS, GRADIENTS
from altgrad_cli.training.engine import train
from altgrad_cli.training.events import event_to_json
from altgrad_cli.training.faults import parse_injection
from altgrad_cli.training.parallel.ranks import ALONE, RankLost, Ranks, SharedError
from altgrad_cli.training.passes.eager import PassResult, run_pass
from altgrad_cli.training.state import TrainState, build_state
from altgrad_cli.training.step import compute_step
from altgrad_cli.training.streams import fork
from tests.ranks import on_ranks
from tests.small import small

STANDARD = ("precision.regime=standard", "fp8_format=E3M4")


def log(config: TrainConfig, ranks: Ranks = ALONE, **options: Any) -> list[dict[str, Any]]:
    """The lines of a run, without what a clock decides."""
    lines = [event_to_json(event) for event in train(config, ranks=ranks, **options)]
    for line in lines:
        line.get("metrics", {}).pop("tokens_per_second", None)
    return lines


def losses(lines: list[dict[str, Any]]) -> list[float]:
    return [line["metrics"]["loss"] for line in lines if line["event"] == "step"]


def first_pass(config: TrainConfig, ranks: Ranks = ALONE) -> PassResult:
    """The pass of the first step, without what cannot be sent."""
    subject = load_subject(config)
    state = build_state(config, subject, ranks)
    assert subject.train is not None
    return replace(run_pass(state, subject.train(fork(state.streams["data"]))), streams_after={})


def first_state(config: TrainConfig) -> tuple[TrainState, Batch]:
    subject = load_subject(config)
    assert subject.train is not None
    state = build_state(config, subject)
    return state, subject.train(fork(state.streams["data"]))


def shares(batch: Batch, count: int) -> list[Batch]:
    return [Ranks(rank, count).rows(batch) for rank in range(count)]


@pytest.mark.parametrize("count", [2, 4])
def test_the_gradient_is_the_sum_of_the_shares_in_the_order_of_the_ranks(count: int, tmp_path: Path) -> None:
    """Bit for bit that of a plain loop in one process; in float32, where no scale is shared."""
    config = small("precision.regime=fp32")
    state, batch = first_state(config)
    parameters = dict(state.model.named_parameters())
    total = torch.zeros_like(state.flat.values)
    for share in shares(batch, count):
        logits = state.model(share.x)
        loss = F.cross_entropy(logits.flatten(0, 1), share.y.flatten()) / count
        found = torch.autograd.grad(loss, [parameters[name] for name in state.flat.names])
        total += torch.cat([gradient.reshape(-1) for gradient in found])
    for given in on_ranks(count, tmp_path, lambda ranks: first_pass(config, ranks).gradient):
        assert torch.equal(given, total)


def test_the_first_gradient_of_two_ranks_is_within_the_bound_of_that_of_one(tmp_path: Path) -> None:
    """dW of a layer is a sum over n tokens: |two - one| <= 2 gamma_n |Q(G)|^T |Q(A)| in every entry.

    A float32 sum of n products in any order is within gamma_n = n u / (1 - n u), u = 2^-24, times the sum of
    their magnitudes of the true one (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1);
    the sum over the ranks is one more order. Of a tensor's largest |g| that is here less than 300 ulp, and
    what is found is less than 4.
    """
    config = small(*STANDARD)
    state, batch = first_state(config)
    operands: dict[tuple[int, int], Tensor] = {}

    def seen(layer: int, role: int, x: Tensor, grid: Any, scales: Tensor) -> None:
        operands[layer, role] = grid.round(x, scales).flatten(0, -2).double().abs()

    one = run_pass(state, batch, observer=seen).gradient
    two = on_ranks(2, tmp_path, lambda ranks: first_pass(config, ranks).gradient)[0]
    tokens = batch.x.numel()
    gamma = tokens * 2.0**-24 / (1 - tokens * 2.0**-24)
    views = zip(state.flat.linear_views(one), state.flat.linear_views(two), strict=True)
    for layer, (mine, theirs) in enumerate(views):
        bound = 2 * gamma * operands[layer, GRADIENTS].T @ operands[layer, ACTIVATIONS]
        difference = (mine.double() - theirs.double()).abs()
        assert bool((difference <= bound).all())
        ulp = 2.0 ** (torch.frexp(mine.abs().max()).exponent.item() - 24)
        assert float(bound.max()) < 300 * ulp and float(difference.max()) < 4 * ulp
    assert not torch.equal(one, two)


@pytest.mark.parametrize(
    "settings",
    [
        ("precision.rounding=stochastic_all", "model.dropout=0.2"),
        ("precision.scaling.recipe=amax", "precision.scaling.power_of_two=false"),
        ("fp8_format=MXFP8_E4M3",),
        ("fp8_format=E4M3@col:float32", "precision.hadamard=16"),
    ],
    ids=["random", "amax", "blocks", "columns"],
)
def test_draws_and_scales_are_those_of_the_whole_batch(settings: tuple[str, ...], tmp_path: Path) -> None:
    """Noise, random bits and the scales of tensors: each rank has its part of what one process has.

    Otherwise single values of the first gradient would be off by the gap of a grid, at least 1 in 500.
    """
    config = small(*STANDARD, *settings, "max_steps=1")
    one = first_pass(config)
    two, other = on_ranks(2, tmp_path, lambda ranks: first_pass(config, ranks))
    assert torch.equal(two.gradient, other.gradient)
    assert float(two.loss) == pytest.approx(float(one.loss), rel=1e-6)
    torch.testing.assert_close(two.gradient, one.gradient, rtol=1e-5, atol=3e-7)
    assert two.stats is not None and one.stats is not None
    torch.testing.assert_close(two.stats, one.stats, rtol=1e-3, atol=1e-3, equal_nan=True)


def test_the_same_ranks_give_the_same_run_on_every_rank_and_every_time(tmp_path: Path) -> None:
    config = small("precision.regime=uniform", "fp8_format=E5M2", "precision.rounding=stochastic")
    first, second = (on_ranks(2, tmp_path, lambda ranks: log(config, ranks)) for _ in range(2))
    assert first[0] == first[1] == second[0] == second[1]
    alone = log(config)
    assert [line["event"] for line in alone] == [line["event"] for line in first[0]]
    assert losses(first[0]) == pytest.approx(losses(alone), rel=1e-3)
    begun = [next(line for line in lines if line["event"] == "evaluated") for lines in (alone, first[0])]
    assert begun[0] == begun[1]  # whole batches, added up in their order: bit for bit


def test_a_nan_on_one_rank_is_dropped_on_all_captured_and_named(tmp_path: Path) -> None:
    fault = "nan@3@1:blocks.1.mlp.c_fc:gradients"
    config = small(*STANDARD, f"inject=['{fault}']", "nan_policy=first")
    folder = tmp_path / "run"

    def run(ranks: Ranks) -> list[dict[str, Any]]:
        return log(config, ranks, run_dir=folder if ranks.speaks else None)

    first, second = on_ranks(2, tmp_path, run)
    ended = [lines[-1] for lines in (first, second)]
    assert ended[0]["outcome"] == ended[1]["outcome"] == "collapsed"
    assert "gradients of blocks.1.mlp.c_fc became nan in the backward phase on rank 1" in ended[0]["reason"]
    dropped = [line["step"] for line in second if line["event"] == "step" and not line["committed"]]
    assert dropped == [3]
    saved = VerifiedCheckpoint.read(folder / "checkpoints" / "anomaly_step_3.pt").take()
    assert saved["environment"]["ranks"] == 2
    assert len(saved["batch"]["x"]) == config.batch_size  # the whole one
    (struck,) = saved["injections"]["struck"]
    assert struck["injection"] == fault
    bad = next(record for record in saved["trace"] if record["nonfinite"])
    assert (bad["rank"], bad["index"]) == (1, struck["index"])


def test_a_fault_without_a_rank_strikes_where_it_strikes_in_one_process(tmp_path: Path) -> None:
    config = small(*STANDARD, "inject=['spike@1:blocks.0.attn.c_proj:activations']", "max_steps=2")

    def struck(ranks: Ranks) -> list[dict[str, Any]]:
        from altgrad_cli.training.faults import Faults, resolve_injections

        state, batch = first_state(config)
        state.ranks = ranks
        faults = Faults(resolve_injections(config.inject, state.plan, config.seed), config.seed, ranks.count)
        compute_step(state, batch, faults=faults)
        faults.share_what_struck(ranks, 1)
        return faults.struck

    one = struck(ALONE)
    assert on_ranks(2, tmp_path, struck) == [one, one]


def test_a_checkpoint_of_two_ranks_goes_on_under_one_and_four(tmp_path: Path) -> None:
    config = small(*STANDARD)
    folder = tmp_path / "run"
    straight = on_ranks(2, tmp_path, lambda ranks: log(config, ranks, run_dir=_own(folder, ranks)))[0]
    path = folder / "checkpoints" / "step_000006.pt"

    def resumed(ranks: Ranks) -> list[dict[str, Any]]:
        return log(config, ranks, resume_from=VerifiedCheckpoint.read(path))

    assert losses(on_ranks(2, tmp_path, resumed)[1]) == losses(straight)[6:]  # bit for bit
    for lines in (resumed(ALONE), on_ranks(4, tmp_path, resumed)[3]):
        assert losses(lines) == pytest.approx(losses(straight)[6:], rel=1e-5)


def _own(folder: Path, ranks: Ranks) -> Path | None:
    return folder if ranks.speaks else None


def test_what_cannot_be_shared_is_refused_before_the_first_step(tmp_path: Path) -> None:
    uneven, cut = small(*STANDARD, "batch_size=3"), small("fp8_format=MXFP8_E4M3", "batch_size=2")
    with pytest.raises(UsageError, match="3 rows of a batch cannot be shared by 2 ranks") as caught:
        next(train(uneven, ranks=Ranks(0, 2)))
    assert "batch_size=4" in str(caught.value.hint)
    grid = operand_grid(load_format("MXFP8_E4M3"), "amax").turned
    share = Ranks(0, 2).share
    assert share is not None
    with pytest.raises(UsageError, match="16 rows a rank cut a block of MXFP8_E4M3"):
        share.check((grid,), None, (1, cut.model.block_size, 32))
    with pytest.raises(UsageError, match="hadamard=32"):
        share.check((), 32, (1, 16, 32))


def load_format(name: str) -> Any:
    from altgrad_cli.formats import parse_format

    return parse_format(name)


def _some_ignored(output: Tensor, target: Tensor, *, reduction: str = "mean") -> Tensor:
    return F.cross_entropy(output, target, reduction=reduction, ignore_index=0)


def test_a_loss_that_is_no_mean_of_its_parts_is_refused() -> None:
    def draw(generator: torch.Generator) -> Batch:
        return Batch(torch.randn(8, 4, generator=generator), torch.arange(8) % 3)

    subject = Subject(lambda _: torch.nn.Sequential(torch.nn.Linear(4, 3)), _some_ignored, draw, draw)
    config = small("subject=mine:make")
    with pytest.raises(UsageError, match="not the mean over its targets"):
        next(train(config, subject=subject, ranks=Ranks(0, 2)))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("nan@2@1:blocks.0.attn.c_attn:weights", "what every rank holds alike"),
        ("amax@2@0", "what every rank holds alike"),
        ("nan@2@x", "'x' is not a rank"),
    ],
)
def test_a_fault_on_a_rank_that_cannot_be_is_refused(fault: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_injection(fault)


def test_a_rank_that_there_is_not_is_refused() -> None:
    with pytest.raises(ConfigError, match="there is no rank 1"):
        next(train(small(*STANDARD, "inject=['nan@2@1']")))


def test_what_stops_one_rank_stops_all_with_its_words(tmp_path: Path) -> None:
    def call(ranks: Ranks) -> tuple[str, str | None, int]:
        def fail() -> None:
            if ranks.rank == 1:
                raise ConfigError("no such file", where="here")

        with pytest.raises(SharedError) as caught:
            ranks.agreed(fail)
        return caught.value.message, caught.value.where, caught.value.exit_code

    assert on_ranks(2, tmp_path, call) == [("no such file", "here, rank 1", 2)] * 2


def test_a_rank_that_is_lost_is_one_error_of_ours(tmp_path: Path) -> None:
    def call(ranks: Ranks) -> str:
        ranks.any(False)  # both are there
        if ranks.rank == 1:
            return "gone"
        try:
            while True:
                ranks.any(False)
        except RankLost as error:
            return error.message

    assert "another rank of this run has gone" in on_ranks(2, tmp_path, call)[0]
