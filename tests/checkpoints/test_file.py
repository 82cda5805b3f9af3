"""Checkpoints on disk: plain, whole, sealed; and every change to a file is noticed."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import random
import resource
import subprocess
import sys
import zipfile
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from altgrad_cli.checkpoints.file import (
    SEAL,
    content_hash,
    plain_copy,
    read_checkpoint,
    write_checkpoint,
)
from altgrad_cli.errors import CheckpointError, WriteError

PAYLOAD: dict[str, Any] = {
    "step": 7,
    "weights": {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([float("nan"), -0.0])},
    "codes": torch.arange(256, dtype=torch.uint8),
    "streams": {"data": torch.Generator().get_state()},
    "history": [{"step": n, "loss": 1 / (n + 1), "tokens_per_second": 10.0 * n} for n in range(30)],
    "circumstances": {"created": "2026-11-21", "path": "/somewhere"},
}


def seal(body: bytes) -> bytes:
    """``body`` (a zip without a comment) with a valid seal: what a forger would write."""
    head = body[:-2] + (len(SEAL) + 64).to_bytes(2, "little") + SEAL
    return head + hashlib.sha256(head).hexdigest().encode()


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "step_000007.pt"
    write_checkpoint(path, PAYLOAD)
    return path


def test_what_is_written_is_read_back(checkpoint: Path) -> None:
    assert content_hash(read_checkpoint(checkpoint)) == content_hash(PAYLOAD)
    assert read_checkpoint(checkpoint)["circumstances"] == PAYLOAD["circumstances"]


def test_torch_opens_it_with_weights_only(checkpoint: Path) -> None:
    theirs = torch.load(checkpoint, weights_only=True)
    assert theirs.pop("schema") == "altgrad-checkpoint/1"
    assert theirs.pop("content_hash") == content_hash(PAYLOAD)
    assert content_hash(theirs) == content_hash(read_checkpoint(checkpoint))


def test_every_leaf_becomes_plain() -> None:
    given = {"scalar": np.float64(0.5), "word": np.str_("x"), "deque": deque([1, 2], maxlen=2)}
    plain = plain_copy({**given, "tuple": (True, (2.5, None)), 1: 2})
    assert plain == {"scalar": 0.5, "word": "x", "deque": [1, 2], "tuple": [True, [2.5, None]], 1: 2}
    assert type(plain["scalar"]) is float
    assert type(plain["word"]) is str
    buffer = io.BytesIO()
    torch.save(plain, buffer)
    torch.load(io.BytesIO(buffer.getvalue()), weights_only=True)


@pytest.mark.parametrize("leaf", [object(), lambda: None, b"bytes", 1j, Exception("x"), {1.5: 2}, {2, 1}])
def test_a_leaf_that_needs_code_is_refused_with_its_place(tmp_path: Path, leaf: object) -> None:
    with pytest.raises(CheckpointError) as refused:
        write_checkpoint(tmp_path / "x.pt", {"monitors": {"deep": [leaf]}})
    assert refused.value.where == "checkpoint.monitors.deep.0"
    assert not list(tmp_path.iterdir())


def test_a_copy_shares_no_memory_and_keeps_only_its_own_storage(tmp_path: Path) -> None:
    buffer = torch.zeros(100_000)
    copied = plain_copy({"view": buffer[:10]})
    buffer.fill_(1)
    assert float(copied["view"].sum()) == 0
    write_checkpoint(tmp_path / "x.pt", {"view": buffer[:10]})
    assert (tmp_path / "x.pt").stat().st_size < 10_000


def test_the_content_hash_sees_values_and_not_circumstances() -> None:
    base = content_hash(PAYLOAD)
    elsewhere = {**PAYLOAD, "circumstances": {"created": "later"}, "environment": {"threads": 9}}
    assert content_hash(elsewhere) == base
    slower = [{**entry, "tokens_per_second": 1.0} for entry in PAYLOAD["history"]]
    assert content_hash({**PAYLOAD, "history": slower}) == base
    assert content_hash(dict(reversed(PAYLOAD.items()))) == base
    for changed in (
        {"step": 8},
        {"step": 7.0},
        {"codes": PAYLOAD["codes"].to(torch.int32)},
        {"codes": PAYLOAD["codes"].reshape(16, 16)},
        {"weights": {**PAYLOAD["weights"], "b": torch.tensor([float("nan"), 0.0])}},
        {"another": None},
    ):
        assert content_hash({**PAYLOAD, **changed}) != base


def test_a_failed_write_leaves_the_old_file_and_no_temporary(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    before = checkpoint.read_bytes()
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WriteError, match="no space left"):
        write_checkpoint(checkpoint, {**PAYLOAD, "step": 8})
    assert checkpoint.read_bytes() == before
    assert list(checkpoint.parent.iterdir()) == [checkpoint]


def test_a_seal_that_was_cut_off_is_noticed(checkpoint: Path) -> None:
    data = checkpoint.read_bytes()
    end = data.rindex(SEAL)
    checkpoint.write_bytes(data[: end - 2] + b"\0\0")
    with pytest.raises(CheckpointError, match="seal is missing"):
        read_checkpoint(checkpoint)


def test_a_forged_seal_does_not_hide_changed_content(checkpoint: Path) -> None:
    body = torch.load(checkpoint, weights_only=True)
    body["step"] = 8
    buffer = io.BytesIO()
    torch.save(body, buffer)
    checkpoint.write_bytes(seal(buffer.getvalue()))
    with pytest.raises(CheckpointError, match="content hash"):
        read_checkpoint(checkpoint)


def test_another_schema_is_named(checkpoint: Path) -> None:
    buffer = io.BytesIO()
    torch.save({"schema": "altgrad-checkpoint/99"}, buffer)
    checkpoint.write_bytes(seal(buffer.getvalue()))
    with pytest.raises(CheckpointError, match="99"):
        read_checkpoint(checkpoint)


def mutate(data: bytes, rng: random.Random) -> bytes:
    """One damaged or forged variant of a checkpoint file; never the file itself."""
    kind = rng.choice(["cut", "flip", "flip", "header", "zero", "grow", "splice", "swap", "forge", "reseal"])
    if kind == "cut":
        return data[: rng.randrange(len(data))]
    if kind in ("flip", "header"):
        changed = bytearray(data)
        span = len(data) if kind == "flip" else min(len(data), 600)
        for _ in range(rng.choice([1, 1, 2, 8])):
            at = rng.randrange(span) if rng.random() < 0.5 else len(data) - 1 - rng.randrange(span)
            changed[at] ^= 1 << rng.randrange(8)
        return bytes(changed) if bytes(changed) != data else data[:-1]
    if kind == "zero":
        start = rng.randrange(len(data) - 1)
        stop = min(len(data), start + rng.randrange(1, 4096))
        changed = data[:start] + bytes(stop - start) + data[stop:]
        return changed if changed != data else data[1:]
    if kind == "grow":
        return data + rng.randbytes(rng.randrange(1, 200))
    if kind == "swap":
        middle = rng.randrange(1, len(data) - 1)
        return data[middle:] + data[:middle]
    return forge(data, rng, kind)


def forge(data: bytes, rng: random.Random, kind: str) -> bytes:
    """A valid zip with a valid seal around a changed pickle or changed records."""
    source = zipfile.ZipFile(io.BytesIO(data))
    records = {name: source.read(name) for name in source.namelist()}
    name = next(name for name in records if name.endswith("data.pkl"))
    if kind == "splice":
        records[name] = pickle.dumps({"schema": "altgrad-checkpoint/1", "x": os.path.join}, protocol=2)
    elif kind == "forge":
        changed = bytearray(records[name])
        for _ in range(rng.choice([1, 2, 16])):
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
        records[name] = bytes(changed) if bytes(changed) != records[name] else bytes(changed[:-1])
    else:
        storages = [key for key in records if "/data/" in key and records[key]]
        victim = rng.choice(storages)
        changed = bytearray(records[victim])
        if rng.random() < 0.5:
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
        else:
            changed = changed[: rng.randrange(len(changed))]  # a size that the pickle contradicts
        records[victim] = bytes(changed)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for key, record in records.items():
            archive.writestr(key, record)
    return seal(buffer.getvalue())


def same_content(path: Path) -> bool:
    """Whether a file that was accepted holds what was written, time and place apart."""
    return content_hash(read_checkpoint(path)) == content_hash(PAYLOAD)


def noticed(path: Path) -> bool:
    """Whether the loader refuses the file, in one line."""
    try:
        read_checkpoint(path)
    except CheckpointError as error:
        return "\n" not in error.message
    return False


def torment(path: Path, count: int, seed: int) -> None:
    data = path.read_bytes()
    victim = path.with_name("mutated.pt")
    rng = random.Random(seed)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(count):
        mutated = mutate(data, rng)
        victim.write_bytes(mutated)
        if not noticed(victim):
            # Only a forger who seals his file again can change what no content hash covers: circumstances.
            assert same_content(victim), number
            assert mutated.endswith(hashlib.sha256(mutated[:-64]).hexdigest().encode()), number
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before  # kilobytes
    assert grown < 300_000


def test_mutated_files_are_noticed(checkpoint: Path) -> None:
    torment(checkpoint, 300, seed=1)


@pytest.mark.campaign
def test_ten_thousand_mutated_files_are_noticed(checkpoint: Path) -> None:
    torment(checkpoint, 10_000, seed=2)


def diagnose(path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "altgrad_cli", "diagnose-checkpoint", str(path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def torment_through_the_command(path: Path, count: int) -> None:
    data, rng = path.read_bytes(), random.Random(3)
    victim = path.with_name("mutated.pt")
    for _ in range(count):
        victim.write_bytes(mutate(data, rng))
        done = diagnose(victim)
        assert done.returncode == 2, done.stderr
        assert done.stderr.startswith("error: ")
        assert "unknown command" not in done.stderr
        assert "Traceback" not in done.stderr
        assert not done.stdout


def test_mutated_files_through_the_command(checkpoint: Path) -> None:
    torment_through_the_command(checkpoint, 2)


@pytest.mark.campaign
def test_fifty_mutated_files_through_the_command(checkpoint: Path) -> None:
    torment_through_the_command(checkpoint, 50)
