"""A file -> its documents, one function per kind of file. Every failure says which file, and where in it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from altgrad_cli.errors import DataError
from altgrad_cli.subjects.corpus.compression import compressions_of, kind_of
from altgrad_cli.subjects.corpus.content import decode, open_content, whole_text
from altgrad_cli.subjects.corpus.records import LABEL_FIELDS, TEXT_FIELDS, Document, Reading, read_record

_ONE_A_LINE = (
    "these files have one record a line; if all of the file is one value, or a list of records, call it .json"
)
_ONE_VALUE = "a .json file is one record, a list of records, or one record a line, which `jq -c .` writes"


def read_documents(path: Path, reading: Reading) -> Iterator[Document]:
    """The documents of one file, in its order; a record without text is one of empty text.

    Raises DataError for a file that cannot be read, and for one of whose records none has the field.
    """
    without_field: DataError | None = None
    field_seen = False
    for document in READERS[kind_of(path)](path, reading):
        field_seen = field_seen or document.no_field is None
        without_field = without_field or document.no_field
        yield document
    if without_field is not None and not field_seen:
        raise without_field


def read_text(path: Path, _: Reading) -> Iterator[Document]:
    """A .txt file is one document; it must be UTF-8."""
    with open_content(path) as content:
        text = decode(content.read(), str(path), path)
    yield Document(whole_text(text, str(path)), "text")


def read_json_lines(path: Path, reading: Reading) -> Iterator[Document]:
    """One record a line; blank lines are skipped, and byte order marks, which joined files have inside."""
    offset = 0
    with open_content(path) as lines:
        for number, line in enumerate(lines, start=1):
            where = f"{path}:{number}"
            text = decode(line, where, path, offset).lstrip("\ufeff").rstrip()
            if text:
                yield _from_json(parse_json(text, where, reading, _ONE_A_LINE), reading, where)
            offset += len(line)


def read_json(path: Path, reading: Reading) -> Iterator[Document]:
    """One record, or a list of records; a file of JSON lines under the suffix .json is read as such."""
    with open_content(path) as content:
        text = decode(content.read(), str(path), path)
    try:
        parsed = parse_json(text, str(path), reading, _ONE_VALUE) if text.strip() else []
    except DataError as error:
        cause = error.__cause__
        if not isinstance(cause, json.JSONDecodeError) or cause.msg != "Extra data":
            raise
        if "\n" in text[: cause.pos].strip():  # the first value ends on another line than it began
            raise
        yield from read_json_lines(path, reading)
        return
    for number, record in enumerate(parsed if isinstance(parsed, list) else [parsed], start=1):
        where = f"{path}: record {number}" if isinstance(parsed, list) else str(path)
        yield _from_json(record, reading, where)


def read_parquet(path: Path, reading: Reading) -> Iterator[Document]:
    """One record a row; only the columns that are asked for are read. Needs the extra ``parquet``."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise DataError(
            "reading Parquet needs pyarrow, which is not installed",
            where=str(path),
            hint="pip install 'altgrad[parquet]'",
        ) from error
    with open_content(path) as content:
        try:
            with parquet.ParquetFile(content) as table:
                fields = table.schema_arrow.names
                columns = [name for name in fields if name in _wanted(reading)]
                _refuse_twice(columns, str(path))
                row = 0
                for batch in table.iter_batches(columns=columns or _columns_of_text(table.schema_arrow)):
                    for record in batch.to_pylist():
                        row += 1
                        yield read_record(record, reading, f"{path}: row {row}", fields)
                        if not columns:
                            return  # its error names them, and no other row has more
        except (pyarrow.ArrowException, OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # the file system's word, not the format's
            reason = str(error).strip().splitlines()[0]
            raise DataError(
                f"not a Parquet file that can be read: {reason}",
                where=str(path),
                hint="if it is of another kind, give it that suffix; if it was cut off, fetch it again",
            ) from error


def _columns_of_text(schema: Any) -> list[str]:
    """The columns of a pyarrow schema that may hold text, whatever their names."""
    return [field.name for field in schema if re.search("string|binary", str(field.type))]


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
    return kind_of(path) in READERS and (kind_of(path) != ".parquet" or not compressions_of(path))


def parse_json(text: str, where: str, reading: Reading, hint: str) -> object:
    """The value ``text`` spells; DataError with the place where it stops being JSON, and ``hint``."""
    try:
        return json.loads(text, object_pairs_hook=partial(_object, where=where, reading=reading))
    except json.JSONDecodeError as error:
        raise DataError(
            f"malformed JSON at column {error.colno}: {error.msg}", where=where, hint=hint
        ) from error
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
    text = TEXT_FIELDS if reading.text_field is None else (reading.text_field, "data_type")
    return (*text, *LABEL_FIELDS) if reading.labels else text


def _from_json(record: object, reading: Reading, where: str) -> Document:
    """The document in a JSON value; null is a record without text."""
    if record is None:
        return Document("", "")
    if not isinstance(record, dict):
        raise DataError(
            f"a record is a JSON {type(record).__name__}, not an object",
            where=where,
            hint='write each document as an object with a field for its text: {"text": "..."}',
        )
    return read_record(record, reading, where)
