"""A file -> its documents, one function per kind of file. Every failure says which file, and where in it."""

from __future__ import annotations

import json
import lzma
import math
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path

from altgrad_cli.errors import DataError
from altgrad_cli.subjects.corpus.compression import compression_of, kind_of
from altgrad_cli.subjects.corpus.content import decode, open_content, whole_text
from altgrad_cli.subjects.corpus.records import TEXT_FIELDS, Document, Reading, read_record


def read_documents(path: Path, reading: Reading) -> Iterator[Document]:
    """The documents of one file, in its order; a record without text is one of empty text.

    Raises DataError for a file that cannot be read, and for one of whose records none has the field.
    """
    compression = compression_of(path)
    without_field: DataError | None = None
    field_seen = False
    try:
        for document in READERS[kind_of(path)](path, reading):
            field_seen = field_seen or document.no_field is None
            without_field = without_field or document.no_field
            yield document
    except (EOFError, zlib.error, lzma.LZMAError) as error:
        raise _damaged(path, error) from error
    except OSError as error:
        if compression is not None and error.errno is None:
            raise _damaged(path, error) from error
        raise unreadable(path, error) from error
    if without_field is not None and not field_seen:
        raise without_field


def unreadable(path: Path, error: OSError) -> DataError:
    """What the operating system said, with the path in question."""
    return DataError(f"cannot read the corpus: {error.strerror or error}", where=str(path))


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(
        f"damaged or cut-off compressed data: {error}", where=str(path), hint="fetch the file again"
    )


def read_text(path: Path, _: Reading) -> Iterator[Document]:
    """A .txt file is one document; it must be UTF-8."""
    with open_content(path) as content:
        text = decode(content.read(), str(path), path)
    yield Document(whole_text(text, str(path)), "text")


def read_json_lines(path: Path, reading: Reading) -> Iterator[Document]:
    """One record a line; blank lines are skipped."""
    offset = 0
    with open_content(path) as lines:
        for number, line in enumerate(lines, start=1):
            where = f"{path}:{number}"
            if line.strip():
                record = parse_json(decode(line, where, path, offset).rstrip(), where, reading)
                yield _from_json(record, reading, where)
            offset += len(line)


def read_json(path: Path, reading: Reading) -> Iterator[Document]:
    """One record, or a list of records; a file of JSON lines under the suffix .json is read as such."""
    with open_content(path) as content:
        text = decode(content.read(), str(path), path)
    try:
        parsed = parse_json(text, str(path), reading)
    except DataError:
        first, _, rest = text.lstrip().partition("\n")
        if not rest.strip() or not is_json(first):
            raise
        yield from read_json_lines(path, reading)
        return
    for number, record in enumerate(parsed if isinstance(parsed, list) else [parsed], start=1):
        where = f"{path}: record {number}" if isinstance(parsed, list) else str(path)
        yield _from_json(record, reading, where)


def read_parquet(path: Path, reading: Reading) -> Iterator[Document]:
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
        with open_content(path) as content, parquet.ParquetFile(content) as table:
            fields = table.schema_arrow.names
            wanted = _wanted(reading)
            _refuse_twice([name for name in fields if name in wanted], str(path))
            columns = [name for name in fields if name in wanted] or [
                field.name
                for field in table.schema_arrow
                if str(field.type) in ("string", "large_string", "binary")
            ][:1]  # what the hint names when there is no text where it is looked for
            row = 0
            for batch in table.iter_batches(columns=columns):
                for record in batch.to_pylist() if columns else [{}]:
                    row += 1
                    plain = {name: _decoded(value, path, row) for name, value in record.items()}
                    yield read_record(plain, reading, f"{path}: row {row}", fields)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the file system's word, not the format's
        reason = str(error).strip().splitlines()[0]
        raise DataError(f"not a Parquet file that can be read: {reason}", where=str(path)) from error


def _decoded(value: object, path: Path, row: int) -> object:
    """A value of a binary column as the text that its bytes are."""
    return decode(value, f"{path}: row {row}", path) if isinstance(value, bytes) else value


READERS: Mapping[str, Callable[[Path, Reading], Iterable[Document]]] = {
    ".txt": read_text,
    ".jsonl": read_json_lines,
    ".ndjson": read_json_lines,
    ".json": read_json,
    ".parquet": read_parquet,
}
"""Every suffix a corpus may have; all but Parquet may be compressed as well."""


def can_read(path: Path) -> bool:
    """Whether the name is one of a kind of file that is read here."""
    return kind_of(path) in READERS and (kind_of(path) != ".parquet" or compression_of(path) is None)


def parse_json(text: str, where: str, reading: Reading) -> object:
    """The value ``text`` spells; DataError with the place where it stops being JSON."""
    try:
        return json.loads(text, object_pairs_hook=partial(_object, where=where, reading=reading))
    except json.JSONDecodeError as error:
        raise DataError(f"malformed JSON at column {error.colno}: {error.msg}", where=where) from error
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits, brackets 5,000 deep
        raise DataError(f"JSON that cannot be read: {error}", where=where) from error


def _object(pairs: list[tuple[str, object]], where: str, reading: Reading) -> dict[str, object]:
    """A JSON object; Python alone would let the last of two fields of one name win without a word."""
    record = dict(pairs)
    if len(record) != len(pairs):
        wanted = (*_wanted(reading), reading.language)
        _refuse_twice([name for name, _ in pairs if name in wanted], where)
    return record


def _refuse_twice(names: Collection[str], where: str) -> None:
    twice = sorted({name for name in names if list(names).count(name) > 1})
    if twice:
        raise DataError(
            f"{twice[0]} stands there more than once, and which of them is meant is not said",
            where=where,
            hint="rename or drop all but one; data.text_field=NAME reads the text from another field",
        )


def _wanted(reading: Reading) -> tuple[str, ...]:
    return TEXT_FIELDS if reading.text_field is None else (reading.text_field, "data_type")


def is_json(text: str) -> bool:
    """Whether ``text`` alone is a JSON value."""
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _from_json(record: object, reading: Reading, where: str) -> Document:
    """The document in a JSON value; null is a record without text."""
    if record is None:
        return Document("", "")
    if not isinstance(record, dict):
        raise DataError(f"a record is a JSON {type(record).__name__}, not an object", where=where)
    # pandas writes its missing values as NaN where Python's json lets it.
    absent = {key for key, value in record.items() if isinstance(value, float) and math.isnan(value)}
    return read_record(record | dict.fromkeys(absent), reading, where)
