"""Reads a .safetensors file: a length, a JSON header, raw tensors. The header's sizes are checked first."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from altgrad_cli.errors import CheckpointError

_MAX_HEADER = 100 << 20  # the limit of the format itself


def is_safetensors(path: Path) -> bool:
    """Whether the file begins as a safetensors file does."""
    try:
        with path.open("rb") as file:
            head = file.read(9)
    except (OSError, ValueError):
        return False
    return len(head) == 9 and head[8:] == b"{" and not head.startswith(b"PK")


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The named tensors of the file.

    Raises:
        CheckpointError: header and data contradict each other.
    """
    import safetensors
    from safetensors.torch import load_file

    size = path.stat().st_size
    with path.open("rb") as file:
        header = int.from_bytes(file.read(8), "little")
    if header > min(size - 8, _MAX_HEADER):
        raise CheckpointError(
            f"damaged safetensors file: a header of {header} bytes in a file of {size}", where=str(path)
        )
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (safetensors.SafetensorError, OSError, ValueError, KeyError, RuntimeError, MemoryError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"damaged safetensors file: {reason}", where=str(path)) from None
    if not tensors:
        raise CheckpointError("the file holds no tensors", where=str(path))
    return tensors
