"""Reads a .safetensors file: a length, a JSON header, raw tensors. The header's sizes are checked first."""

from __future__ import annotations

from pathlib import Path

from altgrad_cli.checkpoints.named_tensors import NamedTensor
from altgrad_cli.errors import CheckpointError

_MAX_HEADER = 100 << 20  # the limit of the format itself


def is_safetensors(head: bytes) -> bool:
    """Whether a file that begins with the nine bytes ``head`` is a safetensors file."""
    return len(head) == 9 and head[8:] == b"{" and not head.startswith(b"PK")


def read_safetensors(path: Path, head: bytes, size: int) -> list[NamedTensor]:
    """The named tensors of the file; one of a type that torch has not is named, without its values.

    Args:
        head: its first nine bytes.
        size: its length in bytes.

    Raises:
        CheckpointError: header and data contradict each other.
    """
    from safetensors import SafetensorError, safe_open

    header = int.from_bytes(head[:8], "little")
    if header > min(size - 8, _MAX_HEADER):
        raise CheckpointError(
            f"damaged safetensors file: a header of {header} bytes in a file of {size}", where=str(path)
        )
    try:
        with safe_open(path, framework="pt") as opened:
            tensors = []
            for name in opened.keys():  # noqa: SIM118  (not a dictionary)
                piece = opened.get_slice(name)
                stated, shape = str(piece.get_dtype()), tuple(piece.get_shape())
                try:
                    tensors.append(NamedTensor.of((name,), opened.get_tensor(name)))
                except SafetensorError:
                    tensors.append(NamedTensor((name,), None, stated, shape))
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError, MemoryError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"damaged safetensors file: {reason}", where=str(path)) from None
    if not tensors:
        raise CheckpointError("the file holds no tensors", where=str(path))
    return tensors
