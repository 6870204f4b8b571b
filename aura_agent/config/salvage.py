"""What can still be read of TOML that isn't valid: its tables without the broken ones. Pure.

For commands that only look while somebody edits the config. The daemon never runs on this.
"""

import re
import tomllib

_POSITION = re.compile(r"\(at line (\d+), column \d+\)$")
_NAME = re.compile(r"\s*\[+\s*([\w.\-\"' ]*)")
_MOST_DROPPED = 50


def salvage(text: str) -> tuple[str, list[str]] | None:
    """Return *text* with empty lines in place of its broken tables, and their names; None if too much is broken.

    A table reaches from a line that begins with "[" to the next one. Its name is empty above the first.
    """
    lines = text.split("\n")
    starts = [0, *(number for number, line in enumerate(lines) if line.lstrip().startswith("[") and number)]
    dropped: list[str] = []
    while len(dropped) <= _MOST_DROPPED:
        try:
            tomllib.loads("\n".join(lines))
        except (tomllib.TOMLDecodeError, RecursionError) as problem:
            last = max((number for number, line in enumerate(lines) if line.strip()), default=0)
            found = _POSITION.search(str(problem))
            start = _start(starts, min(last, int(found[1]) - 1 if found else last))
            end = next((each for each in starts if each > start), len(lines))
            if not any(line.strip() for line in lines[start:end]):
                return None  # the error is elsewhere, and nobody knows where
            name = _NAME.match(lines[start])
            dropped.append(re.sub("[\"' ]", "", name[1]) if name else "")
            lines[start:end] = [""] * (end - start)
        except ValueError:
            return None
        else:
            return "\n".join(lines), dropped
    return None


def _start(starts: list[int], number: int) -> int:
    return max(start for start in starts if start <= number)
