"""CSV and its relatives: read as what was written, or refused with the line. Never read as something else."""

from __future__ import annotations

import csv
import io
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baton.errors import DataError
from training.data.files import delimited


def read(directory: Path, content: str | bytes, name: str = "t.csv") -> list[dict[str, Any]]:
    path = directory / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return [dict(row.values) for row in delimited.rows(path)]


def complaint(directory: Path, content: str | bytes) -> str:
    with pytest.raises(DataError) as told:
        read(directory, content)
    return str(told.value).removeprefix(str(directory)).lstrip("/")


TWO = [{"text": "hi, you", "label": "greet"}, {"text": "bye", "label": "part"}]


@pytest.mark.parametrize(
    "content",
    [
        'text,label\n"hi, you",greet\nbye,part\n',
        "text;label\nhi, you;greet\nbye;part\n",
        "text\tlabel\nhi, you\tgreet\nbye\tpart\n",
        "text|label\nhi, you|greet\nbye|part\n",
        "sep=;\ntext;label\nhi, you;greet\nbye;part\n",
        '"sep=;"\r\ntext;label\r\nhi, you;greet\r\nbye;part\r\n',
        "sep=^\ntext^label\nhi, you^greet\nbye^part",
        "text;label\rhi, you;greet\rbye;part\r",
        " text ; label\nhi, you;greet\nbye;part\n",
        "text;label;;\nhi, you;greet;;\nbye;part;;\n",
        "\ntext;label\n\nhi, you;greet\n;\n  ;\nbye;part\n\n",
        "\ufefftext;label\nhi, you;greet\nbye;part\n",
        "text;label\nhi, you;greet\nbye;part\n".encode("utf-16"),
        b"\xfe\xff" + "text\tlabel\r\nhi, you\tgreet\r\nbye\tpart\r\n".encode("utf-16-be"),
    ],
)
def test_the_separator_and_the_encoding_are_found(tmp_path: Path, content: str | bytes) -> None:
    assert read(tmp_path, content) == TWO


def test_a_separator_that_the_rows_agree_with_is_preferred(tmp_path: Path) -> None:
    content = "text;label,old\nhi, you;greet\nbye, bye, bye;part\n"
    assert read(tmp_path, content)[1] == {"text": "bye, bye, bye", "label,old": "part"}


def test_two_separators_that_every_row_allows_are_refused(tmp_path: Path) -> None:
    told = complaint(tmp_path, "text;x,label\na;b,c\nd;e,f\n")
    assert told.startswith(
        "t.csv: its columns may be separated by commas or semicolons: every row allows both; put a first line"
    )
    assert read(tmp_path, "sep=;\ntext;x,label\na;b,c\n") == [{"text": "a", "x,label": "b,c"}]


def test_cells_that_spreadsheets_leave_out_at_the_end_are_blank(tmp_path: Path) -> None:
    assert read(tmp_path, "text,label,note\nhi,greet\nbye,part,x,,\n") == [
        {"text": "hi", "label": "greet", "note": ""},
        {"text": "bye", "label": "part", "note": "x"},
    ]


def test_in_a_table_of_one_column_separators_are_text(tmp_path: Path) -> None:
    assert read(tmp_path, 'text\nhi, you; there\n"a, ""b"""\n') == [{"text": "hi, you; there"}, {"text": 'a, "b"'}]


def test_texts_of_any_length_and_with_line_breaks_are_read_whole(tmp_path: Path) -> None:
    long = "word " * 100_000
    assert read(tmp_path, f'text,label\n"{long}",a\n"one,\r\ntwo\n\n""three""",b\n5" wide,c\n') == [
        {"text": long, "label": "a"},
        {"text": 'one,\r\ntwo\n\n"three"', "label": "b"},
        {"text": '5" wide', "label": "c"},
    ]


@pytest.mark.parametrize(
    ("rows", "line", "about"),
    [
        ('"Great phone, thanks,praise\nscreen broke,complaint\nit is 5" wide,question\n', 2, "opens a text here"),
        ('fine,praise\n"I hate it,complaint\nall good,praise\n', 3, "opens a text here"),
        ('fine,praise\nI hate it,"complaint\nall good,praise\n', 3, "opens a text here"),
        ('"a\nb",praise\n"c\nd","complaint\nall good,praise\n', 5, "opens a text here"),
        ('"Great phone,praise\nscreen broke,complaint\nnot bad",praise\nbox was empty,complaint\n', 2, "goes on to line 4"),
        ('"Great phone,praise\nscreen broke,complaint"\nnot bad,praise\n', 2, "with them it has 1 field"),
        ('"He said \\"hi\\"",praise\n', 2, "opens a text here"),
        ('He said \\"hi\\",praise\n', 2, "a backslash may escape"),
        ('praise, "with blanks, and more"\n', 2, "blank before an opening"),
        ("a,b,c\n", 2, "3 fields, the header has 2; columns are separated by commas: quote texts that hold ','"),
    ],
)
def test_what_may_mean_something_else_is_refused_with_its_line(tmp_path: Path, rows: str, line: int, about: str) -> None:
    told = complaint(tmp_path, f"text,label\n{rows}")
    assert told.startswith(f"t.csv line {line}: ")
    assert about in told


def test_a_record_whose_lines_are_all_rows_is_refused(tmp_path: Path) -> None:
    told = complaint(tmp_path, 'id,text,label\n1,"hello,a\n2,foo,b\n3,bar",c\n4,zed,d\n')
    assert told.startswith("t.csv line 2: a quotation mark opens a text here that goes on to line 4")


def test_a_backslash_is_only_one_in_filled_up_rows(tmp_path: Path) -> None:
    assert read(tmp_path, "text;label;\nlook \\o/;y;;\nC:\\x;z;\n") == [
        {"text": "look \\o/", "label": "y"},
        {"text": "C:\\x", "label": "z"},
    ]


def test_a_quote_that_opens_in_one_field_and_closes_in_another_is_refused(tmp_path: Path) -> None:
    assert "open in one field and close in another" in complaint(tmp_path, 'text,label,lang\nsay "hi, there",en\n')


def test_a_text_of_several_lines_that_only_resembles_rows_is_read(tmp_path: Path) -> None:
    content = 'text,label\n"Hello,\nI paid twice, please help\nThanks, Bob",billing\nhi,greet\n'
    assert read(tmp_path, content)[0] == {"text": "Hello,\nI paid twice, please help\nThanks, Bob", "label": "billing"}


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    assert complaint(tmp_path, "text,label,label\na,b,c\n") == (
        "t.csv line 1: two columns are named 'label'; rename one of them"
    )


@pytest.mark.parametrize(
    ("content", "about"),
    [
        ("text,label\nbon,a\nréclamation,b\n".encode("cp1252"), "line 3: not UTF-8: byte 0xE9 at character 2"),
        ("text,label\nréclamation,b\n".encode("cp1252"), "read as Windows-1252 (cp1252), the line is 'réclamation,b'"),
        ("text,label\nhi,greet\n".encode("utf-16-le"), "it may be UTF-16 without a byte order mark"),
        (b"\xff\xfet\x00e\x00x", "not valid UTF-16"),
        (b"", "the file holds no rows"),
        (b"\n \n", "the file holds no rows"),
    ],
)
def test_other_encodings_and_empty_files_are_told(tmp_path: Path, content: bytes, about: str) -> None:
    assert about in complaint(tmp_path, content)


CHARACTERS = "ab\"',;\t|\\ =é😀\u2028"


def tables(characters: str, least: int = 1) -> st.SearchStrategy[list[list[str]]]:
    """Tables of cells of these characters, with at least so many columns; the first row has the names of the columns."""
    cells = st.text(st.sampled_from(characters), max_size=8)
    rows = st.integers(least, 4).flatmap(lambda width: st.lists(st.lists(cells, min_size=width, max_size=width), min_size=1))
    return rows.map(lambda table: [[f"column {number}" for number in range(len(table[0]))], *table])


def written(table: list[list[str]], **conventions: Any) -> bytes:
    file = io.StringIO(newline="")
    csv.writer(file, **conventions).writerows(table)
    return file.getvalue().encode()


def as_rows(table: list[list[str]]) -> list[dict[str, str]]:
    """What a reader should make of it: rows without any value are nothing."""
    return [dict(zip(table[0], row, strict=True)) for row in table[1:] if any(cell.strip() for cell in row)]


@pytest.mark.parametrize(
    "conventions",
    [
        {},
        {"dialect": "unix"},
        {"dialect": "excel-tab"},
        {"delimiter": ";"},  # Excel, where the comma is in numbers
        {"quoting": csv.QUOTE_NONNUMERIC, "lineterminator": "\n"},  # LibreOffice
    ],
)
@given(table=tables(CHARACTERS + "\r\n"))
def test_a_table_is_read_as_it_was_written_or_refused(
    tmp_path_factory: pytest.TempPathFactory, conventions: dict[str, Any], table: list[list[str]]
) -> None:
    with suppress(DataError):
        assert read(tmp_path_factory.getbasetemp(), written(table, **conventions)) == as_rows(table)


@pytest.mark.parametrize("conventions", [{"doublequote": False}, {"quoting": csv.QUOTE_NONE}])
@given(table=tables(CHARACTERS, least=2))
def test_a_table_with_backslashes_for_escapes_is_read_but_for_these_or_refused(
    tmp_path_factory: pytest.TempPathFactory, conventions: dict[str, Any], table: list[list[str]]
) -> None:
    with suppress(DataError):
        found = read(tmp_path_factory.getbasetemp(), written(table, escapechar="\\", **conventions))
        found_table = [table[0], *(list(row.values()) for row in found)]
        sides = [[[cell.replace("\\", "") for cell in row] for row in side] for side in (found_table, table)]
        assert as_rows(sides[0]) == as_rows(sides[1])


@given(table=tables(CHARACTERS.replace("\\", "")))
def test_what_pandas_writes_is_never_refused_for_texts_of_one_line(
    tmp_path_factory: pytest.TempPathFactory, table: list[list[str]]
) -> None:
    import pandas as pd

    content = pd.DataFrame(table[1:], columns=table[0]).to_csv(index=False)
    assert read(tmp_path_factory.getbasetemp(), content) == as_rows(table)
