"""Opens any file of tensors: altgrad's own by its seal, everything else for its values alone.

A model may be one file or many: a folder, or the ``*.index.json`` that says which shard holds which tensor.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from altgrad_cli.checkpoints.file import read_archive, verified_payload
from altgrad_cli.checkpoints.named_tensors import NamedTensor, walk_tensors
from altgrad_cli.checkpoints.opening import folder_hint, open_tensors
from altgrad_cli.checkpoints.safetensors_file import is_safetensors, read_safetensors
from altgrad_cli.errors import CheckpointError

_MAX_INDEX = 64 << 20
_SHARD = re.compile(r"(.+)-(\d+)-of-(\d+)\.(safetensors|bin|pt)")


@dataclass(frozen=True, slots=True)
class ForeignTensors:
    """Tensors of a file that altgrad did not write: nothing is known but the values."""

    path: Path
    tensors: tuple[NamedTensor, ...]
    kind: str
    checksums: bool
    """Whether the format carries checksums of its data, which were then verified."""
    names_schema: bool = False
    """Whether it has altgrad's schema without altgrad's seal."""


def open_file(path: Path) -> dict[str, object] | ForeignTensors:
    """The verified payload of a checkpoint that altgrad wrote, or a stranger's tensors. Nothing is run.

    Raises:
        CheckpointError: the file cannot be read or trusted, or holds no tensors.
    """
    if path.name.endswith(".index.json"):
        return _read_shards(path, _shards_of_index(path))
    if path.is_dir():
        return _read_folder(path)
    with open_tensors(path) as (file, size):
        head = file.read(9)
        if is_safetensors(head):
            tensors = tuple(read_safetensors(path, head, size))
            return ForeignTensors(path, tensors, "safetensors", checksums=False)
        archive = read_archive(file, size, str(path))
    if archive.sealed:
        return verified_payload(archive, str(path))
    tensors = tuple(walk_tensors(archive.contents))
    if not tensors:
        raise CheckpointError("the file holds no tensors", where=str(path))
    schema = archive.contents.get("schema") if isinstance(archive.contents, dict) else None
    ours = isinstance(schema, str) and schema.startswith("altgrad-checkpoint/")
    return ForeignTensors(path, tensors, "PyTorch state dict", archive.checksums, names_schema=ours)


def _read_folder(folder: Path) -> ForeignTensors:
    indexes = sorted(
        folder.glob("*.index.json"), key=lambda item: ("safetensors" not in item.name, item.name)
    )
    if indexes:
        return _read_shards(folder, _shards_of_index(indexes[0]))
    for ending in ("safetensors", "bin"):
        files = sorted(folder.glob(f"*.{ending}"))
        if files:
            numbered = [match for file in files if (match := _SHARD.fullmatch(file.name))]
            if numbered and len(numbered) == len(files):
                total, digits = int(numbered[0][3]), len(numbered[0][2])
                present = {int(match[2]) for match in numbered}
                absent = sorted({*range(1, min(total, 10_000) + 1)} - present)
                names = [f"{numbered[0][1]}-{n:0{digits}d}-of-{numbered[0][3]}.{ending}" for n in absent]
                _refuse_missing(folder, names)
                return _read_shards(folder, dict.fromkeys(files))
            if len(files) == 1:
                return _read_shards(folder, {files[0]: None})
            raise CheckpointError(
                f"the folder holds {len(files)} .{ending} files and no index that joins them",
                where=str(folder),
                hint=f"give one of them: {', '.join(file.name for file in files[:8])}",
            )
    raise CheckpointError("not a file but a folder", where=str(folder), hint=folder_hint(folder))


def _shards_of_index(index: Path) -> dict[Path, set[str] | None]:
    """Each shard's file and the names it has to hold, from the index's ``weight_map``."""
    with open_tensors(index) as (file, size):
        text = file.read() if size <= _MAX_INDEX else b""
    try:
        weight_map = json.loads(text)["weight_map"]
        pairs = [(str(name), str(shard)) for name, shard in weight_map.items()]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise CheckpointError(
            "not an index of shards", where=str(index), allowed='JSON with "weight_map": {tensor: file}'
        ) from None
    shards: dict[Path, set[str] | None] = {}
    for name, shard in pairs:
        if Path(shard).name != shard or shard in ("", ".", ".."):
            raise CheckpointError(
                f"the index names a file outside its folder: {shard[:80]!r}",
                where=str(index),
                allowed="files beside it",
            )
        names = shards.setdefault(index.parent / shard, set())
        assert names is not None
        names.add(name)
    if not shards:
        raise CheckpointError("the index names no tensors", where=str(index))
    _refuse_missing(index, [shard.name for shard in shards if not shard.exists()])
    return shards


def _refuse_missing(where: Path, names: list[str]) -> None:
    if names:
        more = f" and {len(names) - 8} more" if len(names) > 8 else ""
        raise CheckpointError(
            f"{len(names)} of the model's shards are missing: {', '.join(names[:8])}{more}",
            where=str(where),
            hint="fetch them, or give one shard's own file",
        )


def _read_shards(path: Path, shards: dict[Path, set[str] | None]) -> ForeignTensors:
    placed: list[tuple[str, NamedTensor]] = []
    kinds, checksums = set(), True
    for shard, expected in shards.items():
        opened = open_file(shard)
        if not isinstance(opened, ForeignTensors):
            raise CheckpointError("a shard is a checkpoint that altgrad wrote", where=str(shard))
        absent = sorted((expected or set()) - {tensor.name for tensor in opened.tensors})
        if absent:
            raise CheckpointError(
                f"the shard lacks {len(absent)} tensors that the index places in it: {', '.join(absent[:4])}",
                where=str(shard),
            )
        placed += [(shard.name, tensor) for tensor in opened.tensors]
        kinds.add(opened.kind)
        checksums = checksums and opened.checksums
    # A tensor that lies in two shards has two rows, and each says which shard it is of.
    copies = Counter(tensor.keys for _, tensor in placed)
    tensors = [replace(t, keys=(shard, *t.keys)) if copies[t.keys] > 1 else t for shard, t in placed]
    many = f" in {len(shards)} shards" if len(shards) > 1 else ""
    return ForeignTensors(path, tuple(tensors), f"{' and '.join(sorted(kinds))}{many}", checksums)
