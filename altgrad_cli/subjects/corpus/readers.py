"""A file -> its documents, one function per kind of file. Every failure says which file, and where in it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from altgrad_cli.errors import DataError
from altgrad_cli.subjects.corpus.records import TEXT_FIELDS, Document, read_record

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def read_documents(path: Path, language: str) -> Iterator[Document]:
    """The documents of one file, in its order. Raises DataError for a file that cannot be read."""
    try:
        yield from READERS[path.suffix.lower()](path, language)
    except OSError as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: OSError) -> DataError:
    """What the operating system said, with the path in question."""
    return DataError(f"cannot read the corpus: {error.strerror or error}", where=str(path))


def read_text(path: Path, language: str) -> Iterator[Document]:
    """A .txt file is one document; it must be UTF-8."""
    yield Document(decode(path.read_bytes(), str(path)), "text")


def read_json_lines(path: Path, language: str) -> Iterator[Document]:
    """One record a line; blank lines are skipped."""
    offset = 0
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            where = f"{path}:{number}"
            if line.strip():
                record = parse_json(decode(line, where, offset).rstrip(), where)
                yield read_record(an_object(record, where), language, where)
            offset += len(line)


def read_json(path: Path, language: str) -> Iterator[Document]:
    """One record, or a list of records; a file of JSON lines under the suffix .json is read as such."""
    text = decode(path.read_bytes(), str(path))
    try:
        found = parse_json(text, str(path))
    except DataError:
        first, _, rest = text.lstrip().partition("\n")
        if not rest.strip() or not is_json(first):
            raise
        yield from read_json_lines(path, language)
        return
    for number, record in enumerate(found if isinstance(found, list) else [found], start=1):
        where = f"{path}: record {number}" if isinstance(found, list) else str(path)
        yield read_record(an_object(record, where), language, where)


def read_parquet(path: Path, language: str) -> Iterator[Document]:
    """One record a row; only the columns that hold text are read. Needs the extra ``parquet``."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise DataError(
            "reading Parquet needs pyarrow, which is not installed",
            where=str(path),
            hint="pip install 'altgrad[parquet]'",
        ) from error
    try:
        with parquet.ParquetFile(path) as table:
            fields = table.schema_arrow.names
            columns = [name for name in TEXT_FIELDS if name in fields]
            row = 0
            for batch in table.iter_batches(columns=columns):
                for record in batch.to_pylist() if columns else [{}]:
                    row += 1
                    yield read_record(record, language, f"{path}: row {row}", fields)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the file system's word, not the format's
        reason = str(error).strip().splitlines()[0]
        raise DataError(f"not a Parquet file that can be read: {reason}", where=str(path)) from error


READERS: Mapping[str, Callable[[Path, str], Iterable[Document]]] = {
    ".txt": read_text,
    ".jsonl": read_json_lines,
    ".json": read_json,
    ".parquet": read_parquet,
}
"""Every suffix a corpus may have."""


def decode(content: bytes, where: str, offset: int = 0) -> str:
    """``content`` as UTF-8, without its byte order mark; ``offset`` is where in the file it begins."""
    mark = len(_BYTE_ORDER_MARK) if offset == 0 and content.startswith(_BYTE_ORDER_MARK) else 0
    try:
        return content[mark:].decode()
    except UnicodeDecodeError as error:
        position = offset + mark + error.start
        raise DataError(
            f"byte 0x{content[mark + error.start]:02x} at offset {position} is not UTF-8",
            where=where,
            allowed="UTF-8 text",
            hint="convert the file first, for example: iconv -f LATIN1 -t UTF-8",
        ) from error


def parse_json(text: str, where: str) -> object:
    """The value ``text`` spells; DataError with the place where it stops being JSON."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"malformed JSON at column {error.colno}: {error.msg}", where=where) from error
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits, brackets 5,000 deep
        raise DataError(f"JSON that cannot be read: {error}", where=where) from error


def is_json(text: str) -> bool:
    """Whether ``text`` alone is a JSON value."""
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def an_object(record: object, where: str) -> Mapping[str, object]:
    """``record`` if it is a JSON object."""
    if not isinstance(record, dict):
        raise DataError(f"a record is a JSON {type(record).__name__}, not an object", where=where)
    return record
