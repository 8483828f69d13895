"""Bytes of a file → lines of text, or an error that names the line and the encoding that the file seems to have."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from baton.errors import DataError
from baton.validation import short_repr

MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, whose mark it begins with
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""Byte order marks, and the encodings that they declare."""

LOOKED_AT = 4096
"""Number of bytes at the start of a file in which zero bytes tell that it has an encoding of two or four bytes a character."""


def lines(path: Path) -> Iterator[str]:
    r"""Yield the lines of a text file, each with its end, which is ``\n``, ``\r\n`` or ``\r``.

    The file is UTF-8 unless it begins with the byte order mark of another Unicode encoding.

    Raises:
        DataError: the bytes are not text in that encoding.
    """
    with path.open("rb") as file:
        encoding = _encoding(path, file)
    # In UTF-8, a bad byte becomes a lone surrogate: files are decoded in blocks, and only a check of each line finds its line.
    errors = "surrogateescape" if encoding.startswith("utf-8") else "strict"
    number = 0
    with path.open(encoding=encoding, newline="", errors=errors) as text:
        try:
            for number, line in enumerate(text, start=1):
                yield line if line.isascii() else _checked(line, path, number)
        except UnicodeError as error:
            raise DataError(f"{path}, after line {number}: not valid {encoding.upper()}: {error}; save it as UTF-8") from error


def _encoding(path: Path, file: BinaryIO) -> str:
    start = file.read(LOOKED_AT)
    for mark, encoding in MARKS.items():
        if start.startswith(mark):
            return encoding
    if b"\0" in start and not start.isspace():
        raise DataError(
            f"{path}: its first {len(start):,} bytes hold zero bytes, so that it is not UTF-8; it may be UTF-16 without a byte "
            "order mark, or no text at all; save it as UTF-8"
        )
    return "utf-8"


def _checked(line: str, path: Path, number: int) -> str:
    """Return the line if its bytes were UTF-8."""
    try:
        line.encode()
    except UnicodeEncodeError:
        raw = line.encode(errors="surrogateescape")
        position = next(index for index, character in enumerate(line) if "\udc80" <= character <= "\udcff")
        byte = ord(line[position]) - 0xDC00
        likely = ""
        with suppress(UnicodeDecodeError):
            likely = f"; read as Windows-1252 (cp1252), the line is {short_repr(raw.decode('cp1252').strip())}"
        raise DataError(
            f"{path} line {number}: not UTF-8: byte 0x{byte:02X} at character {position + 1}{likely}; save the file as UTF-8, "
            f"for example: iconv -f CP1252 -t UTF-8"
        ) from None
    return line
