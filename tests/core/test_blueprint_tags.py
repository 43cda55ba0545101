"""Tags of blueprints: one table of what each gives, one of what is refused, and properties of resolution."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from core.blueprint_tags import CONDITIONS, Resolver, parse
from core.errors import BlueprintError


class Objects:
    """One user, jane, with key 7."""

    def find(self, model: str, fields: Mapping[str, Any]) -> Any | None:
        """7 for jane."""
        if model != "authentik_core.user":
            raise ValueError("unknown model")
        return 7 if fields.get("username") == "jane" else None

    def find_object(self, model: str, fields: Mapping[str, Any]) -> dict[str, Any] | None:
        """Jane as data."""
        return {"pk": 7, "username": "jane"} if self.find(model, fields) else None


def read_file(path: str) -> str:
    """One file exists."""
    if path != "/secret":
        raise FileNotFoundError(2, "No such file or directory")
    return "from a file"


def resolve(text: str, **keys: Any) -> Any:
    """The value of ``attrs.x`` written as ``text``."""
    document = parse(f"version: 1\nentries:\n  - model: m\n    attrs:\n      x: {text}\n", "t.yaml")
    context = {"name": "jane", "list": ["a", "b"], "map": {"k": "v"}, "no": False}
    resolver = Resolver("t.yaml", Objects(), context, {"HOME": "/home"}, read_file, keys)
    return resolver.resolve(document.entries[0].values["attrs"]["x"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("!KeyOf one", "pk-1"),
        ("!Find [authentik_core.user, [username, jane]]", 7),
        ("!Find [authentik_core.user, [username, joe]]", None),
        ("!Find [authentik_core.user, [username, !Context name]]", 7),
        ("!Find [!Format ['authentik_%s.user', core], [!Format [user%s, name], jane]]", 7),
        ("!FindObject [authentik_core.user, [username, jane]]", {"pk": 7, "username": "jane"}),
        ("!AtIndex [!FindObject [authentik_core.user, [username, jane]], username]", "jane"),
        ("!Context name", "jane"),
        ("!Context gone", None),
        ("!Context [gone, other]", "other"),
        ("!Context [gone, !Context name]", "jane"),
        ("!Context ['no', true]", False),
        ("!Env HOME", "/home"),
        ("!Env GONE", None),
        ("!Env [GONE, x]", "x"),
        ("!File /secret", "from a file"),
        ("!File [/gone, x]", "x"),
        ("!Format ['%s-%d', !Context name, 5]", "jane-5"),
        ("!Format ['100%%']", "100%"),
        ("!If [true]", True),
        ("!If ['']", False),
        ("!If ''", False),
        ("!If [!Context 'no', a, b]", "b"),
        ("!If [true, [!Context name], b]", ["jane"]),
        ("!If [true, a, !KeyOf gone]", "a"),  # the branch not taken is never looked at
        ("!Condition [AND, true, 1]", True),
        ("!Condition [and, true, 0]", False),
        ("!Condition [NAND, true, true]", False),
        ("!Condition [OR, !Context no, !Context name]", True),
        ("!Condition [NOR, false, false]", True),
        ("!Condition [XOR, true, true, true]", True),
        ("!Condition [XNOR, true, false]", False),
        ("!Enumerate [!Context list, SEQ, !Value 0]", ["a", "b"]),
        ("!Enumerate [!Context list, SEQ, !Index 0]", [0, 1]),
        ("!Enumerate [!Context map, SEQ, !Format ['%s=%s', !Index 0, !Value 0]]", ["k=v"]),
        ("!Enumerate [!Context list, MAP, [!Value 0, !Index 0]]", {"a": 0, "b": 1}),
        ("!Enumerate [[1, 2], SEQ, !Enumerate [[3], SEQ, [!Value 0, !Value 1, !Index 1]]]", [[[3, 1, 0]], [[3, 2, 1]]]),
        ("!Enumerate [[], SEQ, !Value 0]", []),
        ("!AtIndex [[a, b], 1]", "b"),
        ("!AtIndex [[a, b], 5, z]", "z"),
        ("!AtIndex [!Context map, k]", "v"),
        ("!ParseJSON '{\"a\": [1, null]}'", {"a": [1, None]}),
        ("{a: [!Context name]}", {"a": ["jane"]}),
        ("!Context list", ["a", "b"]),
    ],
)
def test_a_tag_gives(text: str, expected: object) -> None:
    """What each tag resolves to, nested ones included."""
    assert resolve(text, one="pk-1") == expected


@pytest.mark.parametrize(
    "text",
    [
        "!KeyOf gone", "!Find [authentik_core.thing, [a, b]]", "!Find []", "!Find [authentik_core.user, [username]]",
        "!File /gone", "!Format ['%d', x]", "!Format ['%s']", "!Format x", "!If []", "!If [true, a]",
        "!Condition [MAYBE, true]", "!Condition [AND]", "!Enumerate [5, SEQ, x]", "!Enumerate [[1], BAG, x]",
        "!Enumerate [[1], MAP, x]", "!Enumerate [[1], SEQ]", "!Index 0", "!Value 0",
        "!Enumerate [[1], SEQ, !Value 1]", "!AtIndex [[a], 5]", "!AtIndex [5, 0]", "!AtIndex [[a]]", "!ParseJSON '{'",
        "!Context []", "!Nonsense x",
    ],
)  # fmt: skip
def test_a_tag_is_refused_with_its_line(text: str) -> None:
    """Each mistake is a ``BlueprintError`` that names file and line, never another exception."""
    with pytest.raises(BlueprintError) as caught:
        resolve(text)
    assert (caught.value.file, caught.value.line) == ("t.yaml", 5)


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "version: 2", "entries: []", "version: 1\nentries: 5", "version: 1\nentries: [5]",
        "version: 1\nmetadata: 5", "version: 1\nentries: [", "version: 1\n\x00", "version: 1\nentries: [{? [a] : b}]",
        "version: 1\nentries: [{a: " + "[" * 100 + "]" * 100 + "}]", "version: 1\nx: &a [*a]",
    ],
)  # fmt: skip
def test_what_is_no_blueprint(text: str) -> None:
    """Not YAML, not version 1, wrong shapes, nesting without end."""
    with pytest.raises(BlueprintError):
        parse(text, "t.yaml")


def test_sections_anchors_and_json() -> None:
    """Entries may be a mapping of lists; anchors and merge keys work; an old JSON export is YAML."""
    text = "version: 1\nentries:\n  one: [&a {model: m, attrs: {x: 1}}]\n  two: [{<<: *a, id: b}]\n"
    entries = parse(text, "t").entries
    assert [entry.values.get("id") for entry in entries] == [None, "b"]
    assert entries[1].values["attrs"] == {"x": 1}
    assert [entry.line for entry in entries] == [3, 4]
    assert parse('{"version": 1, "entries": [{"model": "m"}], "metadata": {"name": "n"}}', "t").name == "n"


def test_aliases_cannot_multiply_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten levels of ten aliases would be ten thousand million values."""
    monkeypatch.setattr("core.blueprint_tags.MAX_NODES", 10_000)
    lines = ["version: 1", "a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    with pytest.raises(BlueprintError, match="too large"):
        parse("\n".join(lines), "t")


_PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text("abc !%[]{}:#'\"\n", max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text("abc", min_size=1, max_size=3), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(_PLAIN)
def test_plain_values_come_through_unchanged(value: object) -> None:
    """Without tags a value is what YAML says, alone, from the context, and through a loop."""
    text = yaml.safe_dump({"version": 1, "entries": [{"model": "m", "attrs": {"x": value}}]})
    written = parse(text, "t").entries[0].values["attrs"]["x"]
    resolver = Resolver("t", Objects(), {"v": value}, {}, read_file)
    assert resolver.resolve(written) == value
    looped = (
        parse("version: 1\nentries: [{x: !Enumerate [[!Context v, 1], SEQ, !Value 0]}]", "t").entries[0].values["x"]
    )
    assert resolver.resolve(looped) == [value, 1]
    assert resolver.loops == []


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(sorted(CONDITIONS)), st.lists(st.booleans(), min_size=1, max_size=6))
def test_conditions_are_boolean_algebra(mode: str, values: list[bool]) -> None:
    """The N-forms are the negations; XOR is parity."""
    written = f"!Condition [{mode}, {', '.join(map(str, values))}]".lower().replace("!condition", "!Condition")
    expected = {"AND": all(values), "OR": any(values), "XOR": sum(values) % 2 == 1}
    plain = {"NAND": "AND", "NOR": "OR", "XNOR": "XOR"}
    assert resolve(written) is (not expected[plain[mode]] if mode in plain else expected[mode])
