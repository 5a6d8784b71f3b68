"""Places in TOML and YAML files, against the parsers: what stands at a place is the value that belongs there."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from gentrace.studies.documents import read_document
from gentrace.studies.errors import SpecError
from gentrace.studies.places import KeyPath, toml_places

NASTY = '''
# a comment with = and [brackets]
plain = 1 # ] not the end
"quoted key" = "a # b ] } , = \\" c"
'literal.key' = 'C:\\temp'
dotted . "inner key" . last = [1, [2, 3], # nested
  4,
]
text = """
many lines with "quotes" and ] = [
""" # after
four = """a""""
raw = \'\'\'
x = 1
[no.table]
\'\'\'
date = 1979-05-27 07:32:00
inline = { a = 1, b.c = [ { d = "}" } ], "e f" = 2.5e3 }
empty = []
none = {}

[table]
x = true
  [ table . sub ]   # spaces
  y = -inf

[[many]]
n = 1
[[many.inner]]
m = 1
[[many.inner]]
m = 2
[many.table]
z = 1
[[many]]
n = 2
[[many.inner]]
m = 3
'''


def leaves(value: Any, path: KeyPath = ()) -> dict[KeyPath, Any]:
    """The values of a document that hold no others, with the path to each."""
    if isinstance(value, dict) and value:
        return {found: leaf for key, entry in value.items() for found, leaf in leaves(entry, (*path, key)).items()}
    if isinstance(value, list) and value:
        return {found: leaf for key, entry in enumerate(value) for found, leaf in leaves(entry, (*path, key)).items()}
    return {path: value}


def text_at(text: str, line: int, column: int) -> str:
    return "\n".join(text.split("\n")[line - 1 :])[column - 1 :]


def begins_with(text: str, value: Any) -> bool:
    """Whether some beginning of a text is this value."""
    for stop in range(1, len(text) + 1):
        try:
            found = tomllib.loads(f"x = {text[:stop]}\n")["x"]
        except tomllib.TOMLDecodeError:
            continue
        if repr(found) == repr(value):
            return True
    return False


def check(text: str) -> None:
    found = toml_places(text)
    values = leaves(tomllib.loads(text))
    for path, value in values.items():
        if path == () or (value == {} and path not in found.values):
            continue
        place = found.values[path]
        assert begins_with(text_at(text, place.line, place.column), value), (path, value, place)
        if isinstance(path[-1], str):
            key = found.keys[path]
            start = text_at(text, key.line, key.column)
            assert start[:1] in "\"'" or start.startswith(path[-1]), (path, start)


def test_every_value_of_a_nasty_document_is_where_it_is_said_to_be() -> None:
    check(NASTY)


def test_the_check_can_fail() -> None:
    assert begins_with("12, 3", 12)
    assert not begins_with("3", 12)
    assert not begins_with(' "a"x'.replace('"a"', '"b"'), "a")


def toml_of(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return '"' + "".join(c if c.isalnum() or c in " #[]{}=,.'" else f"\\u{ord(c):04x}" for c in value) + '"'
    if isinstance(value, list):
        return "[" + ", ".join(map(toml_of, value)) + " ]"
    if isinstance(value, dict):
        return "{ " + ", ".join(f'"{key}" = {toml_of(entry)}' for key, entry in value.items()) + " }"
    return str(value)


names = st.text(alphabet="abc.#[ ]=", min_size=1, max_size=4)
texts = st.text(alphabet=st.characters(max_codepoint=0x2FF), max_size=6)
entries = st.recursive(
    st.integers(-99, 99) | st.booleans() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(names, entries, max_size=4))
def test_any_document(document: dict[str, Any]) -> None:
    text = "\n".join(f'  "{key}"  =   {toml_of(value)} # {key}' for key, value in document.items())
    assert tomllib.loads(text) == document
    check(text)


@pytest.mark.parametrize(
    ("name", "text", "where"),
    [
        ("a.toml", "x = 1\ny = = 2\n", "a.toml:2:5: no valid TOML"),
        ("a.toml", "x = 1\ny = [1,\n", "a.toml:3:1: no valid TOML"),
        ("a.toml", "x = 1\nx = 2\n", "a.toml:2:6: no valid TOML"),
        ("a.yaml", "x: 1\ny: [1\nz: 2\n", "a.yaml:3:2: no valid YAML"),
        ("a.yaml", "x: 1\ny: 2\nx: 3\n", "a.yaml:3:1: 'x' stands here twice"),
        ("a.yml", "- 1\n", "a.yml:1:1: no mapping"),
        ("a.yml", "", "a.yml:1:1: no mapping"),
    ],
)
def test_wrong_syntax_is_named_with_its_place(tmp_path: Path, name: str, text: str, where: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(SpecError) as caught:
        read_document(tmp_path / name)
    assert str(caught.value.problems[0]).startswith(where)


def test_yaml_places(tmp_path: Path) -> None:
    text = "models: [story]\nprompts:\n  - a\n  - b\ndecoding:\n  max_new_tokens: 4\n"
    (tmp_path / "s.yaml").write_text(text)
    document = read_document(tmp_path / "s.yaml")
    assert document.values == yaml.safe_load(text)
    assert document.where(("models", 0)) == "s.yaml:1:10"
    assert document.where(("prompts", 1)) == "s.yaml:4:5"
    assert document.where(("decoding", 0, "max_new_tokens")) == "s.yaml:6:19"
    assert document.where(("decoding", "max_new_tokens"), key=True) == "s.yaml:6:3"
