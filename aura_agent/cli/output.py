"""The one way in which lines for people leave a command.

What they quote may be somebody else's: a heartbeat's name, a crontab's line, a server's error. Nothing of it moves a
terminal's cursor, colours its lines or turns their direction round.
"""

import click


def say(text: str, *, err: bool = False) -> None:
    """Print *text*: one line or several."""
    lines = ("\t".join(map(on_one_line, line.split("\t"))) for line in text.split("\n"))
    click.echo("\n".join(lines), err=err)


def on_one_line(text: str) -> str:
    """Return *text* with a mark for each character that is no plain text: controls, and those that no eye sees."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def plain_json(text: str) -> str:
    """Return the JSON *text*, of lines and blanks, with such characters as escapes: they can only be in strings."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char == "\n" else _escape(char) for char in text)


def _escape(char: str) -> str:
    data = char.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{data[at]:02x}{data[at + 1]:02x}" for at in range(0, len(data), 2))
