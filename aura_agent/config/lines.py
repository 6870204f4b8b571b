"""On which line of a TOML text a key stands. tomllib doesn't say, and an error is no use without it.

The text is known to be valid TOML, so this skims: it finds where keys and values begin and end, and reads nothing else.
Paths are tuples of keys and, within arrays, of indexes: ``("jobs", "backup", "command", 1)``.
"""

import tomllib
from bisect import bisect_right

Path = tuple[str | int, ...]

_BLANK = " \t\n\r"
_ENDS_BARE_KEY = " \t.=]"
_ENDS_SCALAR = ",]}#\n"


def locate(text: str) -> dict[Path, int]:
    """Return the line, from 1, on which each key of *text*, a valid TOML document, is mentioned first.

    Elements of arrays have lines too. The empty path, the document itself, stands on line 1.
    """
    scan = _Scan(text)
    scan.document()
    return scan.lines


class _Scan:
    """One pass over the text; ``at`` is the next character to look at."""

    def __init__(self, text: str) -> None:
        self.lines: dict[Path, int] = {(): 1}
        self._text = text
        self._at = 0
        self._newlines = [index for index, char in enumerate(text) if char == "\n"]
        self._tables: dict[Path, int] = {}  # arrays of tables: how many elements were there so far

    def document(self) -> None:
        table: Path = ()
        while self._skip_blank():
            start = self._at
            if self._text[start] != "[":
                self._pair(table)
                continue
            array = self._text.startswith("[[", start)
            self._at += 2 if array else 1
            table = self._header(self._key(), start, array=array)
            self._at += 2 if array else 1

    def _header(self, key: list[str], start: int, *, array: bool) -> Path:
        """Return the path of the table that a header opens; within an array of tables, that is its last element."""
        path: Path = ()
        for depth, part in enumerate(key, 1):
            path = (*path, part)
            self._found(path, start)
            if array and depth == len(key):
                self._tables[path] = self._tables.get(path, 0) + 1
            if path in self._tables:
                path = (*path, self._tables[path] - 1)
                self._found(path, start)
        return path

    def _pair(self, table: Path) -> None:
        start, path = self._at, table
        for part in self._key():
            path = (*path, part)
            self._found(path, start)
        self._at += 1  # the equals sign
        self._skip_blank()
        self._value(path)

    def _key(self) -> list[str]:
        """Return the parts of a key, and stop at the equals sign or bracket after it."""
        parts = []
        while True:
            self._skip_blank()
            if self._text[self._at] in "\"'":
                parts.append(self._quoted_key())
            else:
                start = self._at
                while self._text[self._at] not in _ENDS_BARE_KEY:
                    self._at += 1
                parts.append(self._text[start : self._at])
            self._skip_blank()
            if self._text[self._at] != ".":
                return parts
            self._at += 1

    def _quoted_key(self) -> str:
        start = self._at
        self._string()
        return str(tomllib.loads(f"key = {self._text[start : self._at]}")["key"])

    def _value(self, path: Path) -> None:
        char = self._text[self._at]
        if char in "\"'":
            self._string()
        elif char == "[":
            self._array(path)
        elif char == "{":
            self._inline_table(path)
        else:
            while self._at < len(self._text) and self._text[self._at] not in _ENDS_SCALAR:
                self._at += 1

    def _string(self) -> None:
        """Go past a string of any of the four kinds."""
        text, quote = self._text, self._text[self._at]
        long = text.startswith(quote * 3, self._at)
        closing = quote * 3 if long else quote
        self._at += len(closing)
        while not text.startswith(closing, self._at):
            self._at += 2 if quote == '"' and text[self._at] == "\\" else 1
        self._at += len(closing)
        for _ in range(2):  # up to two quotes may stand right before the closing ones
            if long and text.startswith(quote, self._at):
                self._at += 1

    def _array(self, path: Path) -> None:
        self._at += 1
        index = 0
        while self._skip_blank() and self._text[self._at] != "]":
            self._found((*path, index), self._at)
            self._value((*path, index))
            index += 1
            self._skip_blank()
            if self._text[self._at] == ",":
                self._at += 1
        self._at += 1

    def _inline_table(self, path: Path) -> None:
        self._at += 1
        while self._skip_blank() and self._text[self._at] != "}":
            self._pair(path)
            self._skip_blank()
            if self._text[self._at] == ",":
                self._at += 1
        self._at += 1

    def _skip_blank(self) -> bool:
        """Go past white space, line ends and comments; return whether anything follows."""
        text = self._text
        while self._at < len(text):
            if text[self._at] == "#":
                end = text.find("\n", self._at)
                self._at = len(text) if end < 0 else end
            elif text[self._at] in _BLANK:
                self._at += 1
            else:
                return True
        return False

    def _found(self, path: Path, at: int) -> None:
        if path not in self.lines:
            self.lines[path] = bisect_right(self._newlines, at - 1) + 1
