"""The measuring itself: fair baselines, ratios, lines, and a part of the report from end to end."""

from __future__ import annotations

import statistics
import sys
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest
import torch

pytest.importorskip("benchmarks")  # a source distribution comes without them

from altgrad_cli.formats import parse_format
from altgrad_cli.sweeps.plan import plan_sweep
from altgrad_cli.sweeps.results import read_sweep
from benchmarks import __main__ as program
from benchmarks import (
    block_grids,
    many_arms,
    memory,
    networks,
    part,
    peers,
    quantizers,
    scaling,
    startup,
    steps,
)
from benchmarks.section import Claim, Options, Section, claims_table, table
from benchmarks.timing import Measured, interleave
from tests.small import SETTINGS

QUICK = Options(threads=1, quick=True, compiled=False)


def losses(name: str, count: int = 4) -> list[float]:
    step = networks.builders(networks.TINY, 1, compiled=False)[name]()
    return [step() for _ in range(count)]


@pytest.fixture(scope="module")
def plain_losses() -> list[float]:
    return losses(networks.PLAIN)


@pytest.mark.parametrize("other", [networks.FP32, f"{networks.PLAIN}, fused AdamW"])
def test_the_plain_step_does_the_engines_work(plain_losses: list[float], other: str) -> None:
    """Same network, batches, gradients and updates: without rounding the losses are the same."""
    assert losses(other) == pytest.approx(plain_losses, rel=1e-6)
    assert len(set(plain_losses)) > 1


def test_rounding_is_seen_in_the_loss(plain_losses: list[float]) -> None:
    assert losses(networks.STANDARD) != pytest.approx(plain_losses, rel=1e-6)


def test_bf16_autocast_trains_almost_alike(plain_losses: list[float]) -> None:
    narrow = losses(f"{networks.PLAIN}, bf16 autocast")
    assert narrow == pytest.approx(plain_losses, rel=1e-2) and narrow != plain_losses


def test_the_large_model_has_the_size_it_is_announced_with() -> None:
    width, depth = 384, 6
    assert networks.LARGE[:3] == (f"model.n_layer={depth}", "model.n_head=6", f"model.n_embd={width}")
    assert scaling.point(width, depth, 1).parameters == pytest.approx(10.8e6, rel=0.01)


def test_parameters_are_counted_right() -> None:
    counted = scaling.point(48, 2, 1).parameters
    config = networks.configure(scaling.size_of(48, 2), 1)
    vocabulary = networks.load_corpus(config.data, config.model.block_size).vocab_size
    model = networks.GPT(config.model, vocabulary)
    assert counted == sum(p.numel() for p in model.parameters())


def test_interleave_calls_everybody_once_a_round_and_drops_the_slow() -> None:
    calls: list[str] = []

    def slow() -> None:
        calls.append("slow")
        statistics.median(range(200_000))

    def fast() -> None:
        calls.append("fast")
        statistics.median(range(200_000))

    measured = interleave({"slow": slow, "fast": fast}, rounds=5, seconds_each=1e-9)
    assert len(measured["slow"].seconds) == 3
    assert calls.count("slow") == 4  # one more to warm up


def test_ratios_are_taken_round_by_round() -> None:
    twice = Measured(seconds=(2.0, 4.0, 6.0, 8.0, 10.0))
    once = Measured(seconds=(1.0, 2.0, 3.0, 4.0, 5.0, 100.0))
    assert twice.ratio(once) == (2, 2, 2)


def test_a_line_is_found_and_what_is_not_on_it() -> None:
    line = scaling.fit([1, 2, 4], [5, 7, 11])
    assert (line.fixed, line.slope, line.residual) == pytest.approx((3, 2, 0), abs=1e-9)
    assert scaling.fit([1, 2, 3, 4], [1, 4, 9, 16]).residual > 0.2


def test_the_curves_are_drawn(tmp_path: Path) -> None:
    seconds = [[0.1, 0.2, 0.3], [0.2, 0.4, 0.6]]
    scaling.draw([("layers", [1.0, 2.0], seconds), ("parameters", [1.0, 2.0], seconds)], tmp_path / "c.png")
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", quantizers.FORMATS)
def test_peers_that_are_installed_round_as_we_do(name: str) -> None:
    x = torch.randn(4096, generator=torch.Generator().manual_seed(3))
    fmt = parse_format(name)
    for make in (peers.torch_cast, peers.ml_dtypes, peers.gfloat):
        for way in make(x, fmt):
            assert quantizers.disagreement(way, x, fmt) == 0, way.name


def test_a_peer_that_rounds_otherwise_is_found_out() -> None:
    x = torch.randn(4096, generator=torch.Generator().manual_seed(3))
    assert quantizers.disagreement(peers.Way("none", lambda: x), x, parse_format("E5M2")) > 0.9


def test_peers_that_are_absent_or_broken_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(x: torch.Tensor, fmt: object) -> list[peers.Way]:
        raise RuntimeError("no compiler\nand more")

    monkeypatch.setattr(peers, "PEERS", (peers.torch_cast, broken, peers.earlier_attempt))
    monkeypatch.setitem(sys.modules, "altgrad", None)  # as where it is not installed
    x = torch.randn(16)
    found, missing = peers.peers(x, parse_format("E5M2"), compiled=False)
    assert [way.name for way in found] == ["torch float8_e5m2"]
    assert missing == {
        "broken": "RuntimeError: no compiler",
        "earlier attempt": "on no package index, and no checkout of it on PYTHONPATH",
    }


def test_a_contestant_that_fails_leaves_the_others() -> None:
    def fails() -> networks.Step:
        raise ValueError("nothing here")

    good = partial(networks.plain_step, networks.configure(networks.TINY, 1))
    running, first, failed = steps.start({"good": good, "bad": fails})
    assert list(running) == list(first) == ["good"]
    assert failed == {"bad": "ValueError: nothing here"}


@pytest.mark.parametrize("room", [quantizers, steps, scaling])
def test_a_part_goes_from_end_to_end(room: ModuleType) -> None:
    section = room.section(QUICK)
    assert section.claims and all(claim.found > 0 for claim in section.claims)
    assert section.lines[0].startswith("## ") and sum("| --- |" in line for line in section.lines) >= 2


def test_block_formats_go_from_end_to_end_with_torchao_or_a_reason() -> None:
    section = block_grids.section(QUICK)
    assert len(section.claims) == len(block_grids.NAMES) + (0 if section.left_out else 3)
    assert all(claim.found > 0 for claim in section.claims)


def test_the_peak_of_a_process_is_its_own() -> None:
    before = memory.high_water()
    ballast = torch.ones(64 << 18)  # 64 MiB
    assert memory.high_water() >= before
    assert memory.high_water() > ballast.numel() * 4 / (1 << 20)


def test_memory_is_measured_in_a_child() -> None:
    peak = memory.measure_in_child(networks.PLAIN, QUICK, 1)
    assert peak.whole >= peak.imported > 50


def test_the_first_step_is_seen() -> None:
    assert 0 < startup.seconds_to_first_step(*SETTINGS) < 60


def test_claims_say_which_do_not_hold() -> None:
    lines = claims_table([Claim("good", 1.0, 1.1), Claim("bad", 2.0, 1.1, "s")])
    assert lines[2:] == ["| good | 1.00 x | 1.1 x | yes |", "| bad | 2.00 s | 1.1 s | **no** |"]
    assert table(("a", "b"), [("c", "1")]) == ["| a | b |", "| --- | ---: |", "| c | 1 |"]


def test_a_section_comes_back_from_its_process_as_it_was() -> None:
    section = Section(lines=("## x", ""), claims=(Claim("c", 1.0, 2.0),), left_out={"p": "why"})
    assert part.read(part.write(section)) == section


def test_the_report_has_tables_claims_and_what_is_missing() -> None:
    section = Section(lines=("## Part", "", "text"), claims=(Claim("c", 1.0, 2.0),), left_out={"p": "why"})
    text = program.render([section], QUICK)
    assert text.startswith("# Benchmarks\n") and text.endswith("## Part\n\ntext\n")
    assert "- not measured: p (why)" in text and "| c | 1.00 x | 2 x | yes |" in text
    assert "no figure here counts" in text


def test_a_part_that_breaks_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    section = part.measure("no-such-part", QUICK)
    assert section.lines[0] == "## no-such-part: not measured" and "exit code 2" in section.lines[2]


def test_ten_thousand_arms_are_planned_and_what_is_finished_is_not_begun_again(tmp_path: Path) -> None:
    assert len(plan_sweep(many_arms.specification(many_arms.SEEDS), {})) == 10_000
    assert many_arms.write_runs(tmp_path / "sweep", seeds=1) == 80
    many_arms.act_here("resume", tmp_path / "sweep", seeds=1)
    assert len(read_sweep(tmp_path / "sweep").arms) == 80
