"""The lines of keys: for texts written by hand, and for any that can be generated."""

import tomllib

import pytest
from hypothesis import given, settings, strategies as st

from aura_agent.config.lines import Path, locate

WRITTEN_BY_HAND = '''\
# [not.a.table]
title = "a = 1 # no comment" # b = 2

[jobs.backup] # c = 3
command = [ # [d]
  "one", # "two"]
  "]",
  [ "nested" ],
]
"quoted key" = 1
'literal.key' = 2
"a\\"b\\u00e9" = 3
text = """
[jobs.fake]
x = 1\\"""
"""""
after = \'\'\'
]}\'\'\'
expect.file = { path = "/a,b}", min = { size = 1 }, list = [1,
  2] }
expect . "other" = 1979-05-27 07:32:00

[[steps]]
name = "first"
[steps.with]
deep = 1
[[steps]]
name = "second"
[[steps.inner]]
x = 1
[[steps.inner]]
x = 2

[jobs]
last = true'''


def test_lines_of_a_text_with_all_that_toml_has() -> None:
    """Neither strings, comments nor brackets within them lead astray."""
    lines = locate(WRITTEN_BY_HAND)

    assert {
        ("title",): 2,
        ("jobs",): 4,
        ("jobs", "backup"): 4,
        ("jobs", "backup", "command"): 5,
        ("jobs", "backup", "command", 0): 6,
        ("jobs", "backup", "command", 1): 7,
        ("jobs", "backup", "command", 2, 0): 8,
        ("jobs", "backup", "quoted key"): 10,
        ("jobs", "backup", "literal.key"): 11,
        ("jobs", "backup", 'a"bé'): 12,
        ("jobs", "backup", "text"): 13,
        ("jobs", "backup", "after"): 17,
        ("jobs", "backup", "expect", "file", "min", "size"): 19,
        ("jobs", "backup", "expect", "file", "list", 1): 20,
        ("jobs", "backup", "expect", "other"): 21,
        ("steps",): 23,
        ("steps", 0, "name"): 24,
        ("steps", 0, "with"): 25,
        ("steps", 0, "with", "deep"): 26,
        ("steps", 1): 27,
        ("steps", 1, "inner", 0, "x"): 30,
        ("steps", 1, "inner", 1, "x"): 32,
        ("jobs", "last"): 35,
    }.items() <= lines.items()
    assert set(lines) == set(paths(tomllib.loads(WRITTEN_BY_HAND)))


@pytest.mark.parametrize("text", ["", "\n", "# only a comment", "a=1", "[a]", "a=[]", "a={}", "a=1\r\nb=2\r\n"])
def test_the_shortest_texts(text: str) -> None:
    """The end of the text is no obstacle."""
    assert set(locate(text)) == set(paths(tomllib.loads(text)))


def paths(tree: object, path: Path = ()) -> list[Path]:
    """Return the paths of all that is in *tree*."""
    found = [path]
    if isinstance(tree, dict):
        for key, value in tree.items():
            found += paths(value, (*path, key))
    elif isinstance(tree, list):
        for index, value in enumerate(tree):
            found += paths(value, (*path, index))
    return found


KEYS = st.one_of(
    st.from_regex(r"[A-Za-z0-9_-]{1,6}", fullmatch=True), st.text(st.characters(codec="utf-8"), max_size=4)
)
STRINGS = st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=8)


@st.composite
def toml_key(draw: st.DrawFn, key: str) -> str:
    bare = key.isascii() and key.replace("-", "").replace("_", "").isalnum()
    if bare and draw(st.booleans()):
        return key
    if "'" not in key and key.isprintable() and draw(st.booleans()):
        return f"'{key}'"
    return basic(key)


def basic(text: str) -> str:
    return (
        '"'
        + "".join(char if char not in '"\\' and char.isprintable() else f"\\U{ord(char):08x}" for char in text)
        + '"'
    )


@st.composite
def toml_value(draw: st.DrawFn, depth: int = 2) -> str:
    """Return any value, with blanks, comments and line ends where TOML allows them."""
    kinds = ["scalar", "string", "long"] + (["array", "table"] if depth else [])
    kind = draw(st.sampled_from(kinds))
    if kind == "scalar":
        return draw(st.sampled_from(["1", "-0.5e3", "true", "1979-05-27T07:32:00Z", "07:32:00", "inf", "0xff"]))
    if kind == "string":
        text = draw(STRINGS)
        literal = "'" not in text and text.isprintable() and draw(st.booleans())
        return f"'{text}'" if literal else basic(text)
    if kind == "long":
        return draw(
            st.sampled_from(['"""\na = 1\n[b]\n"""', "'''\n# x\n]'''", '"""a"""""', "'''a'''''", '"""\\\n  \\""""'])
        )
    if kind == "array":
        gap = draw(st.sampled_from(["", " ", "\n", " # ] ,\n  "]))
        items = draw(st.lists(toml_value(depth - 1), max_size=3))
        return f"[{gap}" + "".join(f"{item}{gap},{gap}" for item in items) + "]"
    keys = draw(st.lists(KEYS, max_size=3, unique=True))
    pairs = [f"{draw(toml_key(key))} = {draw(toml_value(depth - 1))}" for key in keys]
    return "{ " + ", ".join(pairs) + " }"


@st.composite
def toml_lines(draw: st.DrawFn) -> list[tuple[Path, str]]:
    """Return a document as ``(path of the key that begins here, text)``, in order."""
    written: list[tuple[Path, str]] = []
    for name in draw(st.lists(KEYS, max_size=4, unique=True)):
        written.append(((), draw(st.sampled_from(["", "\n", "# [x] = 1\n", "  \t\n"]))))
        path: Path = (name,)
        header = draw(toml_key(name))
        if draw(st.booleans()):
            sub = draw(KEYS)
            path, header = (name, sub), f"{header} . {draw(toml_key(sub))}"
        elements = draw(st.integers(0, 2))
        for index in range(max(elements, 1)):
            table = (*path, index) if elements else path
            written.append((table, f" [[ {header} ]]\n" if elements else f"[{header}] # y = 2\n"))
            for key in draw(st.lists(KEYS, max_size=3, unique=True)):
                at = (*table, key)
                said = draw(toml_key(key))
                if draw(st.booleans()):
                    sub = draw(KEYS)
                    at, said = (*at, sub), f"{said}.{draw(toml_key(sub))}"
                comment = draw(st.sampled_from(["", " # z = 3", "\t#"]))
                written.append((at, f"{said} = {draw(toml_value())}{comment}\n"))
    return written


@given(toml_lines())
@settings(max_examples=300, deadline=None)
def test_each_key_is_found_on_its_line(written: list[tuple[Path, str]]) -> None:
    """Whatever valid TOML says, all of its keys are found, and each where it was written."""
    text = "".join(part for _, part in written)
    lines = locate(text)

    assert set(lines) == set(paths(tomllib.loads(text)))
    line = 1
    for path, part in written:
        if path:
            assert lines[path] == line
        line += part.count("\n")
