"""What a file's bytes are, whatever its name says: disguises recognised, UTF-8 demanded.

A file is read as its name says: ``law.jsonl.gz`` is JSON lines under gzip. Bytes that belong to another kind
of file are refused with what they are and the command that makes them readable, because the other way to
fail, guessing an encoding, trains on garbage.
"""

from __future__ import annotations

import errno
import lzma
import os
import re
import shlex
import stat
import unicodedata
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from altgrad_cli.errors import DataError
from altgrad_cli.subjects.corpus.compression import (
    COMPRESSIONS,
    Compression,
    Content,
    bare,
    compressions_of,
    feed,
    kind_of,
)

_UTF8_MARK = b"\xef\xbb\xbf"
_HEAD_BYTES = 4096
_MOST_LAYERS = 3
"""Of compression that are looked under: a file can be made that decompresses to itself."""
_NUL_RUN = 8
"""So many NUL characters in a row are no text: a hole in a file, numbers, another encoding."""
_TEXT_KINDS = (".txt", ".json", ".jsonl", ".ndjson")
_CONTROLS = bytes(set(range(32)) - set(b"\t\n\r\f\x1b"))

_OTHER_KINDS: tuple[tuple[re.Pattern[bytes], str, str], ...] = (
    (
        re.compile(rb"PK(\x03\x04|\x05\x06)"),
        "a zip archive",
        "unzip {file} -d {stem}, and give data.path={stem}",
    ),
    (re.compile(rb"7z\xbc\xaf\x27\x1c"), "a 7z archive", "7z x -o{stem} {file}, and give data.path={stem}"),
    (re.compile(rb"Rar!\x1a\x07"), "a rar archive", "unrar x {file} {stem}/, and give data.path={stem}"),
    (
        re.compile(rb".{257}ustar", re.DOTALL),
        "a tar archive",
        "mkdir {stem} && tar -xf {file} -C {stem}, and give data.path={stem}",
    ),
    (re.compile(rb"\x04\x22\x4d\x18"), "lz4-compressed", "lz4 -dc {file} > {stem}-plain{suffix}"),
    (re.compile(rb"PAR1"), "a Parquet file", "give it a name that ends in .parquet"),
    (
        re.compile(rb"ARROW1|\xff\xff\xff\xff.{3}\x00\x10\x00\x00\x00", re.DOTALL),
        "Arrow, as `datasets` saves it",
        "write it as Parquet: `datasets` has to_parquet(...), pyarrow has parquet.write_table(...)",
    ),
    (re.compile(rb"%PDF-"), "a PDF", "pdftotext {file} {stem}.txt, and use that in its place"),
    (re.compile(rb"\{\\rtf"), "a document in rich text (RTF)", "save it as plain text from a word processor"),
    (re.compile(rb"SQLite format 3\x00"), "an SQLite data base", "export its text as .jsonl"),
    (
        re.compile(rb"version https://git-lfs\.github\.com/spec/"),
        "a Git LFS pointer, not the data itself",
        "git lfs pull, in the repository that holds it",
    ),
)
_MARKS = (
    (b"\xff\xfe\x00\x00", "UTF-32"),
    (b"\x00\x00\xfe\xff", "UTF-32"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
)


@contextmanager
def open_content(path: Path) -> Iterator[Content]:
    """The decompressed bytes of a regular file, which are what the name says as far as their head tells.

    Raises DataError for a pipe or a device, for another kind of content, and, while it is open, for what the
    operating system or the decompression has to say.
    """
    layers: list[Compression] = []
    try:
        regular_status(path)
        with ExitStack() as opened:
            content: Content = opened.enter_context(path.open("rb"))
            head = content.peek(_HEAD_BYTES)[:_HEAD_BYTES]
            while len(layers) < _MOST_LAYERS and (layer := _compression_by_magic(head)) is not None:
                layers.append(layer)
                content = opened.push(layer.open(content))
                head = content.peek(_HEAD_BYTES)[:_HEAD_BYTES]
            _refuse_disguise(path, layers, head)
            yield content
    except DataError as error:
        error.where = error.where or str(path)
        raise
    except (EOFError, zlib.error, lzma.LZMAError, OSError) as error:
        if isinstance(error, OSError) and (error.errno is not None or not layers):
            raise unreadable(path, error) from error
        raise DataError(
            f"damaged or cut-off compressed data: {error}", where=str(path), hint="fetch the file again"
        ) from error


def unreadable(path: Path, error: OSError) -> DataError:
    """What the operating system said, with the path in question."""
    return DataError(f"cannot read the corpus: {error.strerror or error}", where=str(path))


def regular_status(path: Path) -> os.stat_result:
    """The status of a regular file.

    Raises DataError for what is none, since reading a pipe or a device may never end, and for a link to
    nowhere.
    """
    try:
        status = path.stat()
    except OSError as error:
        if not path.is_symlink() or error.errno not in (errno.ENOENT, errno.ELOOP):
            raise
        raise DataError(
            f"a link to {path.readlink()}, which leads nowhere",
            where=str(path),
            hint="bring back what it leads to, or remove the link",
        ) from None
    if stat.S_ISREG(status.st_mode):
        return status
    kinds = {stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket", stat.S_IFDIR: "a folder"}
    raise DataError(
        f"{kinds.get(stat.S_IFMT(status.st_mode), 'a device')}, not a regular file",
        where=str(path),
        hint="write the text to a file first: a corpus is read more than once",
    )


def _compression_by_magic(head: bytes) -> Compression | None:
    return next((compression for compression in COMPRESSIONS if compression.magic.match(head)), None)


def _refuse_disguise(path: Path, layers: Sequence[Compression], head: bytes) -> None:
    """Raises DataError unless the content is what the file's name says.

    ``layers`` are the compressions that the content has, the outermost first; ``head`` is what begins under
    them.
    """
    kind, named, stem = kind_of(path), compressions_of(path), shlex.quote(bare(path).stem)
    for magic, what, remedy in _OTHER_KINDS:
        if magic.match(head) and (layers or (kind, what) != (".parquet", "a Parquet file")):
            by_itself = not layers or what == "a tar archive"  # tar takes a compression off as well
            raise DataError(
                f"the content is {what}{_under(layers)}",
                where=str(path),
                hint=remedy.format(file=shlex.quote(str(path)), stem=stem, suffix=kind)
                if by_itself
                else _unpacking(path, layers),
            )
    if named and not layers:
        raise DataError(
            f"the name ends in {named[0].suffix}, but the content is not {named[0].name}-compressed",
            where=str(path),
            hint=f"if it is plain {kind}, call it {bare(path).name}; if it was cut off, fetch it again",
        )
    if layers != named:
        fitting = bare(path).name + "".join(layer.suffix for layer in reversed(layers))
        raise DataError(
            f"the content is {layers[-1].name}-compressed{_under(layers[:-1])}, which the name does not say",
            where=str(path),
            hint=f"call it {fitting}: it is read as it is"
            if kind in _TEXT_KINDS
            else _unpacking(path, layers),
        )
    if kind == ".parquet":
        return
    encoding = _wide_encoding(head)
    if encoding is not None:
        raise DataError(
            f"the text is {encoding}, not UTF-8",
            where=str(path),
            allowed="UTF-8 text",
            hint=f"convert it, and use the result in its place: {_conversion(path, encoding)}",
        )
    if _is_binary(head):
        raise DataError(
            f"binary data: {_count_controls(head):,} of the first {len(head):,} bytes are control codes",
            where=str(path),
            allowed="UTF-8 text",
            hint="export the text from the program that wrote the file; no conversion of encodings helps",
        )


def _under(layers: Sequence[Compression]) -> str:
    return f", under {' and '.join(layer.name for layer in layers)}" if layers else ""


def _unpacking(path: Path, layers: Sequence[Compression]) -> str:
    unpacked = f"{shlex.quote(bare(path).stem)}-unpacked{kind_of(path)}"
    return f"unpack it, and use the result in its place: {feed(path, layers)} > {unpacked}"


def _conversion(path: Path, encoding: str) -> str:
    converted = shlex.quote(f"{bare(path).stem}-utf8{kind_of(path)}")
    return f"{feed(path, compressions_of(path), f'iconv -f {encoding} -t UTF-8')} > {converted}"


def _wide_encoding(head: bytes) -> str | None:
    """UTF-16 or UTF-32: by their byte order mark, else by which of them makes text of the bytes."""
    for mark, encoding in _MARKS:
        if head.startswith(mark):
            return encoding
    if not _count_controls(head):
        return None
    whole = head[: len(head) // 4 * 4]
    encodings = ("UTF-32LE", "UTF-32BE", "UTF-16LE", "UTF-16BE")
    likely = {encoding: _text_score(whole.decode(encoding, errors="replace")) for encoding in encodings}
    best = max(encodings, key=likely.__getitem__)
    return best if likely[best] > 0 else None


def _text_score(text: str) -> float:
    """How much ``text`` is like text: its share of ASCII and of what parts words; 0 for what is none.

    Any two bytes are some character. What tells the right order of them is that there are spaces or full
    stops, and hardly a character without a use.
    """
    unused = sum(c == "\ufffd" or (unicodedata.category(c)[0] == "C" and c not in "\t\n\r") for c in text)
    parted = sum(c in " \n\u3000\u3001\u3002\uff0c" for c in text)
    if not text or unused * 50 > len(text) or (parted * 100 < len(text) and not text.isascii()):
        return 0.0
    return sum(c.isascii() or c in "\u3000\u3001\u3002\uff0c" for c in text) / len(text)


def _count_controls(content: bytes) -> int:
    """Bytes that no text has: NUL and control characters, apart from white space and escape."""
    return len(content) - len(content.translate(None, _CONTROLS))


def _is_binary(content: bytes) -> bool:
    return _count_controls(content) * 20 > len(content) or _full_of_nul(content.decode("latin1"))


def _full_of_nul(text: str) -> bool:
    """Whether there is a stretch of NUL, or more than one in a hundred."""
    return text.count("\0") * 100 > len(text) or "\0" * _NUL_RUN in text


def whole_text(text: str, where: str) -> str:
    """``text`` itself; refused are a text full of NUL and half a surrogate pair, which UTF-8 cannot spell."""
    if _full_of_nul(text):
        raise DataError(
            f"{text.count(chr(0)):,} of {len(text):,} characters are NUL: this is no text",
            where=where,
            hint="the file may have holes from an interrupted copy: fetch it again",
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"half a surrogate pair at character {error.start}: this is no Unicode text", where=where
        ) from error
    return text


def decode(content: bytes, where: str, path: Path | None = None, offset: int = 0) -> str:
    """``content`` as UTF-8, without its byte order mark.

    It begins at ``offset`` of the file ``path``, or is a value in a column of bytes where there is no path.
    """
    mark = len(_UTF8_MARK) if offset == 0 and content.startswith(_UTF8_MARK) else 0
    try:
        return content[mark:].decode()
    except UnicodeDecodeError as error:
        place = mark + error.start
        if path is None:
            hint = "decode the column with the encoding it was written in, and save it as text"
        elif _is_binary(content):
            hint = "this is binary data and not text in another encoding: export it as UTF-8 text"
        else:
            hint = (
                f"if it is Western European text, convert it: {_conversion(path, 'LATIN1')}; if not, with the"
                " name of its own encoding"
            )
        raise DataError(
            f"byte 0x{content[place]:02x} at offset {offset + place} is not UTF-8",
            where=where,
            allowed="UTF-8 text",
            hint=hint,
        ) from error
