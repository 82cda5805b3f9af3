"""The reader of torch files: torch is the oracle for honest files, and nothing dishonest gets in."""

from __future__ import annotations

import collections
import io
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from altgrad_cli.checkpoints.file import open_archive
from altgrad_cli.checkpoints.plain_pickle import STORAGE_DTYPES
from altgrad_cli.checkpoints.torch_archive import read_torch_archive
from altgrad_cli.errors import CheckpointError


def read(data: bytes) -> Any:
    return read_torch_archive(io.BytesIO(data), len(data), "test.pt")


def saved(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def with_pickle(pickled: bytes, records: dict[str, bytes] | None = None) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/byteorder", "little")
        for name, data in (records or {}).items():
            archive.writestr(f"archive/data/{name}", data)
    return buffer.getvalue()


@pytest.mark.parametrize("dtype", [*STORAGE_DTYPES.values(), torch.float8_e5m2, torch.float8_e4m3fn])
def test_every_dtype_reads_as_torch_reads_it(dtype: torch.dtype) -> None:
    tensor = (torch.arange(24).reshape(2, 3, 4) % 2).to(dtype)
    data = saved({"a": tensor, "b": tensor.view(-1)[3:7], "c": tensor.transpose(0, 2)})
    oracle = torch.load(io.BytesIO(data), weights_only=True)
    mine = read(data)
    for name, expected in oracle.items():
        assert mine[name].dtype == expected.dtype
        assert mine[name].stride() == expected.stride()
        kind = torch.complex128 if dtype.is_complex else torch.float64
        assert torch.equal(mine[name].to(kind), expected.to(kind))


def test_plain_values_read_as_torch_reads_them() -> None:
    value = {
        "numbers": [0, -1, 255, 256, 65536, 2**31, -(2**40), 2**70, 0.5, float("inf")],
        "words": ["", "é", "x" * 300],
        "flags": (True, False, None),
        "nested": {"deep": [{"list": []}, ()]},
        1: "an integer key",
    }
    assert read(saved(value)) == torch.load(io.BytesIO(saved(value)), weights_only=True) == value


def test_a_module_state_dict_and_parameters_read() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4))
    mine = read(saved(module.state_dict()))
    assert list(mine) == list(module.state_dict())
    assert all(torch.equal(mine[name], tensor) for name, tensor in module.state_dict().items())
    assert torch.equal(read(saved({"p": module[0].weight}))["p"], module[0].weight)


def test_scalars_and_empty_tensors_read() -> None:
    value = {"scalar": torch.tensor(1.5), "empty": torch.empty(0, 3), "one": torch.ones(1)}
    mine = read(saved(value))
    assert mine["scalar"].shape == ()
    assert mine["empty"].shape == (0, 3)
    assert float(mine["scalar"]) == 1.5


class Attack:
    """Pickles to a call of ``os.system``."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (self.command,)


HOSTILE: dict[str, bytes] = {
    "eval": b"cbuiltins\neval\n(X\x04\x00\x00\x001+1\ntR.",
    "getattr": b"cbuiltins\ngetattr\n(]X\x06\x00\x00\x00appendtR.",
    "an object of numpy": b"cnumpy.core.multiarray\n_reconstruct\n.",
    "a torch function": b"ctorch.hub\nload\n.",
    "inst": b"(S'ls'\nios\nsystem\n.",
    "obj": b"(cos\nsystem\nS'ls'\no.",
    "newobj": b"\x80\x02ccollections\nOrderedDict\n)\x81.",
    "stack_global": b"\x80\x04\x8c\x02os\x8c\x06system\x93.",
    "ext": b"\x82\x01.",
    "an empty stack": b".",
    "no end": b"\x80\x02}",
    "nothing": b"",
    "pops too much": b"000.",
    "reduce of a number": b"\x80\x02K\x01)R.",
    "a name left over": b"\x80\x02ctorch\nFloatStorage\n.",
    "a name in a dictionary": b"\x80\x02}X\x01\x00\x00\x00actorch\nFloatStorage\ns.",
    "state of a list": b"\x80\x02]}b.",
    "itself": b"\x80\x02]q\x00h\x00a.",
    "itself as a dictionary": b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s.",
    "a list as a key": b"\x80\x02}]K\x01s.",
    "a memo that is not there": b"\x80\x02h\x07.",
    "a memo far away": b"\x80\x02Nr\xff\xff\xff\x7f.",
    "a text longer than the file": b"\x80\x02X\xff\xff\xff\x7fabc.",
    "bytes of a terabyte": b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b".",
    "a frame of a terabyte": b"\x80\x04\x95" + struct.pack("<Q", 1 << 40) + b"N.",
    "a number of a megabyte": b"\x80\x02\x8b" + struct.pack("<i", 1 << 20) + b"\x01.",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickles_are_refused(name: str) -> None:
    if name == "a memo far away":  # harmless here, where the memo is a dictionary
        assert read(with_pickle(HOSTILE[name])) is None
        return
    if name == "a frame of a terabyte":  # a hint to readers, and ignored
        assert read(with_pickle(HOSTILE[name])) is None
        return
    with pytest.raises(CheckpointError):
        read(with_pickle(HOSTILE[name]))


def test_what_a_pickle_names_is_never_run(tmp_path: Path) -> None:
    trace = tmp_path / "run"
    for protocol in range(6):
        attack = pickle.dumps({"weights": Attack(f"touch {trace}")}, protocol=protocol)
        with pytest.raises(CheckpointError):
            read(with_pickle(attack))
    assert not trace.exists()
    pickle.loads(pickle.dumps(Attack(f"touch {trace}")))
    assert trace.exists()  # the attack works, where a pickle is trusted


def test_nested_lists_that_double_at_each_level_are_refused() -> None:
    bomb: list[Any] = []
    for _ in range(60):
        bomb = [bomb, bomb]
    with pytest.raises(CheckpointError, match="without end"):
        read(with_pickle(pickle.dumps(bomb, protocol=2)))


def tensor_pickle(*, numel: int, size: bytes, stride: bytes, offset: int = 0) -> bytes:
    """The pickle of one float32 tensor with sizes as stated."""
    parts = (
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\n",
        b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpu",
        long1(numel),
        b"tQ",
        long1(offset),
        size,
        stride,
        b"\x89ccollections\nOrderedDict\n)RtR.",
    )
    return b"".join(parts)


def long1(number: int) -> bytes:
    raw = number.to_bytes(9, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def tuple1(number: int) -> bytes:
    return long1(number) + b"\x85"


def test_the_hand_made_tensor_is_read() -> None:
    honest = with_pickle(tensor_pickle(numel=4, size=tuple1(4), stride=tuple1(1)), {"0": b"\0" * 16})
    assert torch.equal(read(honest), torch.zeros(4))


@pytest.mark.parametrize(
    ("numel", "size", "stride", "offset"),
    [
        (8, 8, 1, 0),  # more elements than the record holds: torch would read beyond it
        (2, 2, 1, 0),  # fewer
        (4, 5, 1, 0),
        (4, 4, 2, 0),
        (4, 4, 1, 1),
        (4, 1 << 40, 0, 0),  # no memory behind it, and a terabyte for whoever copies it
        (4, -1, 1, 0),
        (4, 4, -1, 3),
        (4, 4, 1, -1),
        (1 << 62, 4, 1, 0),
    ],
)
def test_lying_sizes_are_refused(numel: int, size: int, stride: int, offset: int) -> None:
    pickled = tensor_pickle(numel=numel, size=tuple1(size), stride=tuple1(stride), offset=offset)
    with pytest.raises(CheckpointError):
        read(with_pickle(pickled, {"0": b"\0" * 16}))


def test_compressed_records_are_refused() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps([0] * 1000, protocol=2))
    with pytest.raises(CheckpointError, match="compressed"):
        read(buffer.getvalue())


def test_two_records_of_one_name_are_refused() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02N.")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("archive/data.pkl", b"\x80\x02N.")
    with pytest.raises(CheckpointError, match="two records"):
        read(buffer.getvalue())


def test_other_zip_files_are_refused() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("word/document.xml", "<w/>")
    with pytest.raises(CheckpointError, match=r"data\.pkl"):
        read(buffer.getvalue())


@pytest.mark.parametrize("content", [b"", b"PK", b"PK\x03\x04", b"\x80\x02N.", b"hello" * 100, bytes(1000)])
def test_files_that_are_no_torch_file_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError):
        open_archive(path)


def test_places_that_are_no_file_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent.pt", Path("/dev/zero"), Path("x\0y"), tmp_path / ("x" * 5000)):
        with pytest.raises(CheckpointError):
            open_archive(path)


def test_an_ordered_dictionary_keeps_its_order() -> None:
    value = collections.OrderedDict((str(number), number) for number in range(20, 0, -1))
    assert list(read(saved(value))) == list(value)
