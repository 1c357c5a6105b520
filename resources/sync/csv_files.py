"""CSV files of any delimiter and encoding as text columns, each field exactly as written."""

import csv
import re
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE, BOM_UTF32_BE, BOM_UTF32_LE
from codecs import getincrementaldecoder as decoder_of
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import StringIO, TextIOWrapper
from itertools import islice
from typing import Any, BinaryIO, NoReturn

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow.csv import ConvertOptions, ParseOptions, ReadOptions, open_csv

from resources.sync.column_types import BIGINT, BOOLEAN, DATE, DOUBLE, NUMERIC, TEXT, UUID
from resources.sync.columns import Columns, Refused
from resources.sync.source_config import DELIMITERS, Table

_BLOCK = 4 << 20
_MOST_LINE = 64 << 20
_SAMPLE = 1 << 20
_SAMPLE_ROWS = 100
_BOMS = {
    BOM_UTF8: "utf-8-sig",
    BOM_UTF32_LE: "utf-32",
    BOM_UTF32_BE: "utf-32",
    BOM_UTF16_LE: "utf-16",
    BOM_UTF16_BE: "utf-16",
}
# In the languages that windows-1252 covers, three such characters in a row are rare; text of other
# languages, read in the wrong code page, is full of them.
_OTHER_SCRIPT = re.compile(r"[^\x00-\x7f]{3}")
# Complete UTF-8 characters: a file with these and one stray byte is damaged UTF-8.
_UTF_8 = re.compile(rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}")
# Written by Excel before the header.
_EXCEL = re.compile(r"\ufeff?\"?sep=([,;|\t])\"?\r?\n?")
# Numbers that PostgreSQL returns exactly as they were written.
_WHOLE = r"^(0|-?[1-9][0-9]{0,17})$"
_NUMBER = (
    r"^(-?[1-9][0-9]{0,999}(\.[0-9]{1,999})?|0(\.[0-9]{1,999})?|-0\.[0-9]{0,500}[1-9][0-9]{0,498})$"
)
_DECIMAL = r"(?i)^\s*([+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]{1,5})?|nan|[+-]?inf(inity)?)\s*$"
# What values of a declared type may look like; PostgreSQL decides.
_FORMS = {
    BIGINT: r"^\s*[+-]?[0-9]{1,19}\s*$",
    NUMERIC: _DECIMAL,
    DOUBLE: _DECIMAL,
    BOOLEAN: r"(?i)^\s*(t|true|f|false|y|yes|n|no|on|off|1|0)\s*$",
    DATE: r"^\s*[0-9]{4}-[0-9]{2}-[0-9]{2}\s*$",
    UUID: r"(?i)^\s*\{?[0-9a-f]{4}(-?[0-9a-f]{4}){7}\}?\s*$",
}


@dataclass(frozen=True)
class _Form:
    """The format of a file.

    `lines` counts its rows up to and including the header; `long` says that lines may be longer
    than a block, `empty` that no rows follow the header.
    """

    encoding: str
    delimiter: str
    header: list[str]
    lines: int
    quotes: bool
    long: bool
    empty: bool


def read_tables(name: str, open_file: Callable[[], Any], columns: Columns) -> Iterator[pa.Table]:
    """The rows of a file; raises `Refused` with the file and the line."""
    csv.field_size_limit(_MOST_LINE)
    try:
        form = _form(open_file, columns.table)
        if form is None:
            columns.notes.append(f"{name}: empty")
            return
        columns.notes.append(
            f"{name}: {form.encoding}, {DELIMITERS[form.delimiter]}, {len(form.header)} columns"
        )
        if form.quotes:
            _check_quotes(open_file, form)
        yield from _tables(name, open_file, form, columns)
    except _Unreadable as error:
        raise Refused(f"{columns.table.name}: {name}{error}") from None
    except UnicodeError as error:
        refused = f"{columns.table.name}: {name}: {error}: set its encoding, as in"
        raise Refused(f'{refused} encoding = "utf-8"') from None


class _Unreadable(Exception):
    """The rest of an error message that begins with the file's name."""


def _form(open_file: Callable[[], Any], table: Table) -> _Form | None:
    with open_file() as file:
        sample = file.read(_SAMPLE)
    if not sample:
        return None
    encoding, quotes, long = _encoding(open_file, sample, table.encoding)
    whole = len(sample) < _SAMPLE
    text = decoder_of(encoding)().decode(sample, whole)
    hint = _EXCEL.match(text)
    skipped = 0 if hint is None else 1
    declared = _BY_NAME.get(table.delimiter or "", hint[1] if hint else None)
    delimiter = declared or _delimiter(text, whole)
    rows = csv.reader(StringIO(text, newline=""), delimiter=delimiter)
    try:
        for number, row in enumerate(rows, 1):
            if row and number > skipped:
                return _Form(
                    encoding, delimiter, _header(row), number, quotes, long, whole and not any(rows)
                )
    except csv.Error as error:
        raise _Unreadable(f", line {rows.line_num}: {error}") from None
    return None


_BY_NAME = {name: character for character, name in DELIMITERS.items()}


def _encoding(
    open_file: Callable[[], Any], sample: bytes, declared: str | None
) -> tuple[str, bool, bool]:
    """The encoding, and whether there are quotes and very long lines, from the whole file."""
    candidates = [declared] if declared else _candidates(sample)
    for encoding in candidates:
        with open_file() as file:
            decoded = _decodes(file, encoding, guessed=encoding == "windows-1252" != declared)
        if decoded is not None:
            return encoding, *decoded
    raise _Unreadable(
        f': its encoding is not {" or ".join(candidates)}: set it, as in encoding = "windows-1251"'
    )


def _candidates(sample: bytes) -> list[str]:
    for bom, encoding in _BOMS.items():
        if sample.startswith(bom):
            return [encoding]
    # In UTF-16, every other byte of mostly-ASCII text is 0.
    if sample[1::2].count(0) > len(sample) // 8 and not sample[0::2].count(0):
        return ["utf-16-le"]
    if sample[0::2].count(0) > len(sample) // 8 and not sample[1::2].count(0):
        return ["utf-16-be"]
    return ["utf-8", "windows-1252"]


def _decodes(file: BinaryIO, encoding: str, *, guessed: bool) -> tuple[bool, bool] | None:
    """Whether a file contains quotes and very long lines; None where it does not have this
    encoding."""
    decoder = decoder_of(encoding)()
    quotes = long = False
    try:
        while piece := file.read(_SAMPLE):
            text = decoder.decode(piece)
            quotes = quotes or '"' in text
            long = long or (len(piece) == _SAMPLE and "\n" not in text)
            if guessed and (_OTHER_SCRIPT.search(text) or _UTF_8.search(piece)):
                return None
        decoder.decode(b"", True)
    except UnicodeError:
        return None
    return quotes, long


def _delimiter(text: str, whole: bool) -> str:
    """The delimiter that splits all rows of the sample alike; else one that splits the header."""
    heads: list[str] = []
    alike: list[str] = []
    for delimiter in DELIMITERS:
        rows = _sample_rows(text, delimiter, whole)
        counts = {len(row) for row in rows}
        if rows and len(rows[0]) > 1:
            heads.append(delimiter)
            if len(counts) == 1:
                alike.append(delimiter)
    delimiters = alike or heads or [","]
    if len(delimiters) > 1:
        names = " or ".join(DELIMITERS[name] for name in delimiters)
        raise _Unreadable(f': its delimiter may be {names}: set it, as in delimiter = "comma"')
    return delimiters[0]


def _sample_rows(text: str, delimiter: str, whole: bool) -> list[list[str]]:
    rows = []
    try:
        reader = csv.reader(StringIO(text, newline=""), delimiter=delimiter)
        rows = list(islice(reader, _SAMPLE_ROWS + 1))
    except csv.Error:
        return []
    # The last row may be incomplete.
    rows = rows if whole and len(rows) <= _SAMPLE_ROWS else rows[:-1] or rows
    return [row for row in rows if row]


def _header(row: list[str]) -> list[str]:
    names = [name if name.strip() else f"column_{n}" for n, name in enumerate(row, 1)]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise _Unreadable(f": two columns have the name {twice[:60]!r}")
    return names


def _check_quotes(open_file: Callable[[], Any], form: _Form) -> None:
    """Refuse what Arrow would accept silently: unclosed quotes, and text after them."""
    with _text(open_file, form) as text:
        rows = csv.reader(text, delimiter=form.delimiter, strict=True)
        try:
            for _ in rows:
                pass
        except csv.Error as error:
            raise _Unreadable(f", line {rows.line_num}: {error}") from None


def _text(open_file: Callable[[], Any], form: _Form) -> TextIOWrapper:
    return TextIOWrapper(open_file(), encoding=form.encoding, newline="")


def _tables(
    name: str, open_file: Callable[[], Any], form: _Form, columns: Columns
) -> Iterator[pa.Table]:
    names = [columns.name(source) for source in form.header]
    for column in names:
        columns.know(column)
    done = 0
    yield columns.arrow({column: pa.array([], pa.string()) for column in names}, 0, str)
    if form.empty:
        return  # Arrow requires a line break after the header
    with open_file() as file:
        try:
            for batch in _batches(file, form, names):
                texts = dict(zip(names, batch.columns, strict=True))

                def where(index: int, done: int = done) -> str:
                    return f"{name}, row {done + index + 1}"

                for column, values in texts.items():
                    _see(columns, column, values, where)
                yield columns.arrow(texts, batch.num_rows, where)
                done += batch.num_rows
        except pa.ArrowInvalid as error:
            _refuse(open_file, form, str(error))


def _batches(file: Any, form: _Form, names: list[str]) -> Iterator[pa.RecordBatch]:
    return iter(
        open_csv(
            file,
            read_options=ReadOptions(
                column_names=names,
                skip_rows_after_names=form.lines,
                encoding=form.encoding,
                block_size=_MOST_LINE if form.long else _BLOCK,
                use_threads=False,
            ),
            parse_options=ParseOptions(delimiter=form.delimiter, newlines_in_values=True),
            convert_options=ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()),
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
                null_values=[""],
            ),
        )
    )


def _see(columns: Columns, column: str, values: Any, where: Callable[[int], str]) -> None:
    declared = columns.declared(column)
    if declared is not None:
        columns.see(column, declared, where(0))
        if declared in _FORMS:
            fits = pc.match_substring_regex(values, _FORMS[declared])
            row = pc.index(fits, False).as_py()
            if row >= 0:
                value = str(values[row].as_py())[:60]
                columns.refuse_value(column, where(row), f"{value!r} is not a valid {declared}")
    elif values.null_count < len(values) and not columns.has_seen(column, TEXT):
        kinds = ((_WHOLE, BIGINT), (_NUMBER, NUMERIC))
        fitting = (kind for form, kind in kinds if _all_fit(values, form))
        columns.see(column, next(fitting, TEXT), where(0))


def _all_fit(values: Any, form: str) -> bool:
    return bool(pc.all(pc.match_substring_regex(values, form)).as_py())


def _refuse(open_file: Callable[[], Any], form: _Form, error: str) -> NoReturn:
    """Find the line that Arrow rejected, because Arrow only knows rows."""
    with _text(open_file, form) as text:
        rows = csv.reader(text, delimiter=form.delimiter)
        line = 1
        try:
            for row in rows:
                if row and len(row) != len(form.header):
                    fields = f"it has {len(row)} fields, and the header {len(form.header)}"
                    raise _Unreadable(f", line {line}: {fields}")
                line = rows.line_num + 1
        except csv.Error as csv_error:
            raise _Unreadable(f", line {rows.line_num}: {csv_error}") from None
    if "straddling" in error:
        most = _MOST_LINE if form.long else _BLOCK
        error = f"a row has more than {most >> 20} MiB"
    raise _Unreadable(f": {error[:300]}")
