"""Private random streams: one purpose never moves another."""

from __future__ import annotations

import hashlib

import torch

from altgrad_cli.rounding.stochastic import draw_key
from altgrad_cli.training.streams import PURPOSES, Streams, derive_seed, fork


def numbers(generator: torch.Generator) -> list[float]:
    return torch.rand(4, generator=generator).tolist()


def test_seeds_follow_from_seed_and_purpose_on_every_platform() -> None:
    digest = hashlib.sha256(b"altgrad/42/data").digest()
    assert derive_seed(42, "data") == int.from_bytes(digest[:8], "little") // 2
    assert derive_seed(42, "data") == 7739420981984874577
    seeds = {derive_seed(seed, purpose) for seed in (42, 43) for purpose in PURPOSES}
    assert len(seeds) == 2 * len(PURPOSES)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_drawing_for_one_purpose_moves_no_other() -> None:
    streams, untouched = Streams(7), Streams(7)
    for purpose in PURPOSES[1:]:
        numbers(streams[purpose])
    draw_key(streams["rounding_update"])
    assert torch.equal(streams[PURPOSES[0]].get_state(), untouched[PURPOSES[0]].get_state())
    assert not torch.equal(streams["data"].get_state(), untouched["data"].get_state())


def test_no_stream_is_torchs_default_one() -> None:
    before = torch.random.get_rng_state()
    streams = Streams(1)
    for purpose in PURPOSES:
        numbers(streams[purpose])
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_fork_starts_where_the_stream_stands_and_leaves_it_there() -> None:
    stream = Streams(3)["data"]
    numbers(stream)
    twin = fork(stream)
    ahead = numbers(twin)
    assert numbers(stream) == ahead
    assert numbers(twin) != ahead


def test_adopting_a_fork_goes_on_from_it() -> None:
    streams = Streams(3)
    twin = fork(streams["dropout"])
    numbers(twin)
    following = numbers(fork(twin))
    streams.adopt("dropout", None)
    assert numbers(fork(streams["dropout"])) != following
    streams.adopt_all({"dropout": twin})
    assert numbers(streams["dropout"]) == following


def test_positions_are_saved_and_restored() -> None:
    streams = Streams(3)
    numbers(streams["data"])
    saved = streams.state_dict()
    ahead = {purpose: numbers(streams[purpose]) for purpose in PURPOSES}
    other = Streams(99)
    other.load_state_dict(saved)
    assert {purpose: numbers(other[purpose]) for purpose in PURPOSES} == ahead
    assert all(position.dtype == torch.uint8 for position in saved.values())


def test_every_stream_is_on_the_cpu_where_its_bits_are_portable() -> None:
    assert {Streams(3)[purpose].device.type for purpose in PURPOSES} == {"cpu"}
