"""Take a change of a file's lines back where other lines have changed since. Pure."""

from difflib import SequenceMatcher


def take_back(before: str | None, after: str, now: str | None) -> tuple[str | None, list[str]]:
    """Return *now* without the change from *before* to *after*, and the changed lines that aren't in it any more.

    A changed line becomes what it was if it is still there as it was written. Paragraphs that were added are removed if
    nobody has changed them. Lines that were removed come back at the end. None: no such file is left.
    """
    if now is None:
        return None, ["the file was removed"]
    old, new = _lines(before or ""), _lines(after)
    lines, missing = _lines(now), list[str]()
    for _, start, end, new_start, new_end in reversed(_hunks(old, new)):
        written, wanted = new[new_start:new_end], old[start:end]
        if len(written) == len(wanted):  # line by line: somebody may have changed one of them
            pairs = list(zip(written, wanted, strict=True))
            for index in reversed(range(len(pairs))):
                if not _replace(lines, [pairs[index][0]], [pairs[index][1]], new, new_start + index):
                    missing.insert(0, pairs[index][0])
        elif not written:  # lines were removed: nothing says where they stood
            lines += [*([] if not lines or lines[-1].endswith("\n") else ["\n"]), *wanted]
        elif wanted:
            if not _replace(lines, written, wanted, new, new_start):
                missing[:0] = written
        else:  # paragraph by paragraph: somebody may have changed one of them
            for first, last in reversed(_paragraphs(written)):
                if not _replace(lines, written[first:last], [], new, new_start + first):
                    missing[:0] = written[first:last]
    text = "".join(lines)
    return (None if before is None and not text.strip() else text), missing


def _hunks(old: list[str], new: list[str]) -> list[tuple[str, int, int, int, int]]:
    if len(old) == len(new):  # aura-run came in front of lines: each stands where it stood
        return [("replace", at, at + 1, at, at + 1) for at in range(len(old)) if old[at] != new[at]]
    return [hunk for hunk in SequenceMatcher(None, old, new, autojunk=False).get_opcodes() if hunk[0] != "equal"]


def _paragraphs(lines: list[str]) -> list[tuple[int, int]]:
    """Return where each paragraph begins and ends; blank lines belong to the one that follows."""
    starts = [0] + [at for at in range(1, len(lines)) if lines[at - 1].strip() and not lines[at].strip()]
    return list(zip(starts, [*starts[1:], len(lines)], strict=True))


def _replace(lines: list[str], written: list[str], wanted: list[str], new: list[str], at: int) -> bool:
    """Put *wanted* in the place of *written* in *lines*; return whether it is there. *at*: where it is in *new*."""
    count = len(written)
    found = [index for index in range(len(lines) - count + 1) if lines[index : index + count] == written]
    if not found:
        return False
    # Equal lines keep their order; those after this one are taken back already.
    equals_before = sum(new[index : index + count] == written for index in range(at))
    place = found[min(equals_before, len(found) - 1)]
    lines[place : place + count] = wanted
    return True


def _lines(text: str) -> list[str]:
    return [f"{line}\n" for line in text.split("\n")[:-1]] + ([last] if (last := text.rpartition("\n")[2]) else [])
