"""What a file's bytes are, whatever its name says: disguises recognised, UTF-8 demanded.

A file is opened by its name: ``law.jsonl.gz`` is JSON lines under gzip. Bytes that belong to another kind
of file are refused with what they are and the command that makes them readable, because the other way to
fail, guessing an encoding, trains on garbage.
"""

from __future__ import annotations

import re
import shlex
import stat
from pathlib import Path

from altgrad_cli.errors import DataError
from altgrad_cli.subjects.corpus.compression import (
    COMPRESSIONS,
    Compression,
    Content,
    bare_stem,
    compression_of,
    feed,
    kind_of,
)

_UTF8_MARK = b"\xef\xbb\xbf"
_HEAD_BYTES = 4096
_NUL_RUN = 8
"""So many NUL characters in a row are no text: a hole in a file, numbers, another encoding."""


_OTHER_KINDS: tuple[tuple[re.Pattern[bytes], str, str], ...] = (
    (re.compile(rb"PK\x03\x04"), "a zip archive", "unzip {file} -d {stem}, and give data.path={stem}"),
    (re.compile(rb"7z\xbc\xaf\x27\x1c"), "a 7z archive", "7z x -o{stem} {file}, and give data.path={stem}"),
    (
        re.compile(rb".{257}ustar", re.DOTALL),
        "a tar archive",
        "mkdir {stem} && tar -xf {file} -C {stem}, and give data.path={stem}",
    ),
    (re.compile(rb"\x04\x22\x4d\x18"), "lz4-compressed", "lz4 -dc {file} > {stem}-plain{suffix}"),
    (re.compile(rb"PAR1"), "a Parquet file", "give it a name that ends in .parquet"),
    (re.compile(rb"ARROW1"), "an Arrow file", "write its table as Parquet: pyarrow.parquet.write_table"),
    (re.compile(rb"%PDF-"), "a PDF", "pdftotext {file} {stem}.txt, and use that in its place"),
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


def open_content(path: Path) -> Content:
    """The decompressed bytes of a regular file, which are what the name says as far as their head tells.

    Raises DataError for a pipe or a device, a compression that is not there, and another kind of content.
    """
    refuse_special(path)
    compression = compression_of(path)
    content: Content = path.open("rb")
    try:
        head = content.peek(_HEAD_BYTES)[:_HEAD_BYTES]
        if compression is not None:
            content.close()
            if not compression.magic.match(head):
                raise recognised(path, head) or _not_compressed(path, compression)
            content = compression.open(path)
            head = content.peek(_HEAD_BYTES)[:_HEAD_BYTES]
        if (error := recognised(path, head)) is not None:
            raise error
    except BaseException:
        content.close()
        raise
    return content


def _not_compressed(path: Path, compression: Compression) -> DataError:
    return DataError(
        f"the name ends in {compression.suffix}, but the content is not {compression.name}-compressed",
        where=str(path),
        hint=f"if it is plain {kind_of(path)}, call it {path.stem}; if it was cut off, fetch it again",
    )


def refuse_special(path: Path) -> None:
    """Raises DataError for what is no regular file: reading a pipe or a device may never end."""
    mode = path.stat().st_mode
    if stat.S_ISREG(mode):
        return
    kinds = {stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket", stat.S_IFDIR: "a folder"}
    raise DataError(
        f"{kinds.get(stat.S_IFMT(mode), 'a device')}, not a regular file",
        where=str(path),
        hint="write the text to a file first: a corpus is read more than once",
    )


def recognised(path: Path, head: bytes) -> DataError | None:
    """What the content really is, by its first bytes, and how to make it readable; None for what may be text.

    ``head`` is of the decompressed content where the file's name says a compression.
    """
    fitting = compression_of(path)
    under = "" if fitting is None else f", under {fitting.name}"
    for compression in COMPRESSIONS:
        if compression.magic.match(head):
            return DataError(
                f"the content is {compression.name}-compressed{under}, which the name does not say",
                where=str(path),
                allowed=f"a name that ends in {compression.suffix}, or decompressed text",
                hint=_unpacking(path, compression),
            )
    if kind_of(path) == ".parquet" and fitting is None and head.startswith(b"PAR1"):
        return None
    for magic, what, remedy in _OTHER_KINDS:
        if magic.match(head):
            quoted = {"file": shlex.quote(str(path)), "stem": shlex.quote(bare_stem(path))}
            return DataError(
                f"the content is {what}{under}",
                where=str(path),
                hint=remedy.format(**quoted, suffix=kind_of(path)),
            )
    if kind_of(path) == ".parquet":
        return None
    encoding = _wide_encoding(head)
    if encoding is not None:
        return DataError(
            f"the text is {encoding}, not UTF-8",
            where=str(path),
            allowed="UTF-8 text",
            hint=f"convert it, and use the result in its place: {_conversion(path, encoding)}",
        )
    if _full_of_nul(head):
        return DataError(
            "binary data: it is full of NUL bytes",
            where=str(path),
            allowed="UTF-8 text",
            hint="export the text from the program that wrote the file; no conversion of encodings helps",
        )
    return None


def _unpacking(path: Path, compression: Compression) -> str:
    if compression_of(path) is None and kind_of(path) in (".txt", ".json", ".jsonl", ".ndjson"):
        return f"call it {path.name}{compression.suffix}: it is read as it is"
    once = f"{bare_stem(path)}-unpacked{kind_of(path)}{path.suffix if compression_of(path) else ''}"
    command = f"{feed(path, compression.command)} > {shlex.quote(once)}"
    return f"unpack it, and use the result in its place: {command}"


def _conversion(path: Path, encoding: str) -> str:
    converted = shlex.quote(f"{bare_stem(path)}-utf8{kind_of(path)}")
    return f"{feed(path, f'iconv -f {encoding} -t UTF-8')} > {converted}"


def _wide_encoding(head: bytes) -> str | None:
    """UTF-16 or UTF-32, by their byte order mark, else by where the zeros of Latin letters stand."""
    for mark, encoding in _MARKS:
        if head.startswith(mark):
            return encoding
    if len(head) < 8 or b"\x00" not in head:
        return None
    whole = head[: len(head) // 4 * 4]
    nul = [whole[place::4].count(0) / (len(whole) // 4) for place in range(4)]
    mostly = [share > 0.7 for share in nul]
    rarely = [share < 0.1 for share in nul]
    patterns = {
        "UTF-32LE": (rarely[0], mostly[1], mostly[2], mostly[3]),
        "UTF-32BE": (mostly[0], mostly[1], mostly[2], rarely[3]),
        "UTF-16LE": (rarely[0], mostly[1], rarely[2], mostly[3]),
        "UTF-16BE": (mostly[0], rarely[1], mostly[2], rarely[3]),
    }
    return next((encoding for encoding, fits in patterns.items() if all(fits)), None)


def _full_of_nul(content: bytes | str) -> bool:
    """Whether there is a stretch of NUL, or more than one in a hundred."""
    nul = b"\x00" if isinstance(content, bytes) else "\x00"
    many = content.count(nul) * 100 > len(content)  # type: ignore[arg-type]
    return many or nul * _NUL_RUN in content  # type: ignore[operator]


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


def decode(content: bytes, where: str, path: Path, offset: int = 0) -> str:
    """``content`` of ``path`` as UTF-8, without its byte order mark; ``offset`` is where it begins."""
    mark = len(_UTF8_MARK) if offset == 0 and content.startswith(_UTF8_MARK) else 0
    try:
        return content[mark:].decode()
    except UnicodeDecodeError as error:
        place = mark + error.start
        controls = sum(content.count(byte) for byte in range(32) if byte not in b"\t\n\r\f\x1b")
        if controls * 20 > len(content):
            hint = "this is binary data and not text in another encoding: export it as UTF-8 text"
        elif kind_of(path) == ".parquet":
            hint = "decode the column with the encoding it was written in, and save it as text"
        else:
            hint = f"if it is Western European text, convert it: {_conversion(path, 'LATIN1')}"
        raise DataError(
            f"byte 0x{content[place]:02x} at offset {offset + place} is not UTF-8",
            where=where,
            allowed="UTF-8 text",
            hint=hint,
        ) from error
