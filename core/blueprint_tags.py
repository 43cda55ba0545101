"""Blueprint text → tree, and the tags of flows.md §9 resolved against a context.

``parse`` turns YAML into plain values with ``Tag`` objects where a tag stood; ``Resolver.resolve`` turns such a value
into plain data. Tags are resolved late: the branch of an ``!If`` that is not taken is never looked at.
"""

from __future__ import annotations

import functools
import json
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import yaml

from core.errors import BlueprintError

MAX_NODES = 5_000_000  # values in one file, aliases counted each time: 100,000 users with 20 values each, twice over
MAX_DEPTH = 64  # nesting; deeper is a mistake
MISSING = object()

CONDITIONS: dict[str, Callable[[Sequence[bool]], bool]] = {
    "AND": all,
    "NAND": lambda values: not all(values),
    "OR": any,
    "NOR": lambda values: not any(values),
    "XOR": lambda values: functools.reduce(operator.xor, values),
    "XNOR": lambda values: not functools.reduce(operator.xor, values),
}


@dataclass(frozen=True)
class Tag:
    """A tag that is not resolved yet: ``name`` without ``!``, what stood behind it, and its line (from 1)."""

    name: str
    value: Any
    line: int


@dataclass(frozen=True)
class Entry:
    """One entry as written; ``values`` are its unresolved keys."""

    line: int
    values: dict[str, Any]


@dataclass(frozen=True)
class Document:
    """A blueprint file as written. ``file`` is how errors call it."""

    file: str
    metadata: dict[str, Any] = field(default_factory=dict)
    context: dict[str, Any] = field(default_factory=dict)
    entries: tuple[Entry, ...] = ()

    @property
    def name(self) -> str:
        """``metadata.name`` or the file's name."""
        return str(self.metadata.get("name") or self.file)


def parse(text: str, file: str) -> Document:
    """Read a blueprint.

    :raises BlueprintError: no YAML, not version 1, unknown tag, or entries of the wrong shape.
    """
    loader = yaml.CSafeLoader(text) if hasattr(yaml, "CSafeLoader") else yaml.SafeLoader(text)
    try:
        root = loader.get_single_node()
        builder = _Builder(loader, file)
        if not isinstance(root, yaml.MappingNode):
            raise BlueprintError("a blueprint is a mapping", file=file, line=1)
        top: dict[str, Any] = {}
        entries: list[Entry] = []
        for key, node in root.value:
            if key.value == "entries":
                entries = [_entry(builder, item, file) for item in _entry_nodes(node, file)]
            else:
                top[str(key.value)] = builder.build(node)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or "not YAML"
        raise BlueprintError(str(problem), file=file, line=mark.line + 1 if mark else None) from None
    finally:
        loader.dispose()
    if top.get("version") != 1:
        raise BlueprintError("only version 1 is known", file=file, line=1, field="version")
    return Document(file, _mapping(top, "metadata", file), _mapping(top, "context", file), tuple(entries))


def _mapping(top: Mapping[str, Any], name: str, file: str) -> dict[str, Any]:
    value = top.get(name) or {}
    if not isinstance(value, dict):
        raise BlueprintError("must be a mapping", file=file, field=name)
    return value


def _entry_nodes(node: yaml.Node, file: str) -> list[yaml.Node]:
    """Entries are a list, or a mapping of section name to list."""
    if isinstance(node, yaml.SequenceNode):
        return list(node.value)
    if isinstance(node, yaml.MappingNode):
        return [item for _, section in node.value for item in _entry_nodes(section, file)]
    if isinstance(node, yaml.ScalarNode) and node.value in ("", "null", "~"):
        return []
    raise BlueprintError("must be a list or a mapping of lists", file=file, field="entries")


def _entry(builder: _Builder, node: yaml.Node, file: str) -> Entry:
    line = node.start_mark.line + 1
    values = builder.build(node)
    if not isinstance(values, dict):
        raise BlueprintError("an entry is a mapping", file=file, line=line)
    return Entry(line, values)


class _Builder:
    """Nodes → values; counts them, so that aliases cannot multiply without end."""

    def __init__(self, loader: Any, file: str) -> None:
        self._loader = loader
        self._file = file
        self._built = 0

    def build(self, node: yaml.Node, depth: int = 0) -> Any:
        self._built += 1
        line = node.start_mark.line + 1
        if depth > MAX_DEPTH or self._built > MAX_NODES:
            raise BlueprintError("nested too deeply or too large", file=self._file, line=line)
        if node.tag.startswith("!"):
            name = node.tag[1:]
            if name not in RESOLVERS:
                raise BlueprintError(f"unknown tag !{name}", file=self._file, line=line)
            return Tag(name, self._plain(node, depth), line)
        return self._plain(node, depth)

    def _plain(self, node: yaml.Node, depth: int) -> Any:
        if isinstance(node, yaml.SequenceNode):
            return [self.build(item, depth + 1) for item in node.value]
        if isinstance(node, yaml.MappingNode):
            self._loader.flatten_mapping(node)  # merge keys (<<)
            return {self._key(key): self.build(item, depth + 1) for key, item in node.value}
        if node.tag.startswith("!"):
            return node.value
        return self._loader.construct_object(node)

    def _key(self, node: yaml.Node) -> Any:
        if not isinstance(node, yaml.ScalarNode) or node.tag.startswith("!"):
            raise BlueprintError("a key must be plain", file=self._file, line=node.start_mark.line + 1)
        return self._loader.construct_object(node)


class Objects(Protocol):
    """What tags ask of the objects that exist."""

    def find(self, model: str, fields: Mapping[str, Any]) -> Any | None:
        """The primary key of the first match or ``None``; raises ``ValueError`` for unknown models and fields."""

    def find_object(self, model: str, fields: Mapping[str, Any]) -> dict[str, Any] | None:
        """The first match as plain data or ``None``."""


@dataclass
class Resolver:
    """Resolves tags of one file. ``keys`` fills up with the ids of entries that were applied; ``rewrites`` maps primary
    keys as written to those of the objects that matched under another one."""

    file: str
    objects: Objects
    context: Mapping[str, Any]
    environ: Mapping[str, str]
    read_file: Callable[[str], str]
    keys: dict[str, Any] = field(default_factory=dict)
    rewrites: dict[str, Any] = field(default_factory=dict)
    loops: list[tuple[Any, Any]] = field(default_factory=list)

    def resolve(self, value: Any, depth: int = 0) -> Any:
        """Plain data of a value with tags.

        :raises BlueprintError: a tag has no answer or is written wrongly; with its line.
        """
        if depth > MAX_DEPTH:
            raise BlueprintError("nested too deeply", file=self.file)
        if isinstance(value, Tag):
            try:
                return self.resolve(RESOLVERS[value.name](self, value.value), depth + 1)
            except BlueprintError:
                raise
            except (ValueError, TypeError, KeyError, IndexError, OSError) as error:
                raise BlueprintError(f"!{value.name}: {_text(error)}", file=self.file, line=value.line) from None
        if isinstance(value, list):
            return [self.resolve(item, depth + 1) for item in value]
        if isinstance(value, dict):
            return {key: self.resolve(item, depth + 1) for key, item in value.items()}
        if isinstance(value, str):
            return self.rewrites.get(value, value)
        return value


def _text(error: Exception) -> str:
    if isinstance(error, OSError):
        return error.strerror or "cannot be read"
    return str(error.args[0]) if error.args else type(error).__name__


def _arguments(resolver: Resolver, value: Any, at_least: int, at_most: int | None = None) -> list[Any]:
    if not isinstance(value, list) or len(value) < at_least or (at_most is not None and len(value) > at_most):
        raise ValueError("written with the wrong number of items")
    return value


def _named(resolver: Resolver, value: Any) -> tuple[str, Any]:
    """``name`` or ``[name, default]``; the default stays unresolved until it is used."""
    if isinstance(value, list):
        name, default = (*_arguments(resolver, value, 1, 2), None)[:2]
        return str(resolver.resolve(name)), default
    return str(resolver.resolve(value)), None


def _key_of(resolver: Resolver, value: Any) -> Any:
    name = str(resolver.resolve(value))
    if name not in resolver.keys:
        raise ValueError(f"no entry before this one has the id {name!r}")
    return resolver.keys[name]


def _find_arguments(resolver: Resolver, value: Any) -> tuple[str, dict[str, Any]]:
    model, *pairs = _arguments(resolver, value, 1)
    fields: dict[str, Any] = {}
    for pair in pairs:
        name, wanted = _arguments(resolver, pair, 2, 2)
        fields[str(resolver.resolve(name))] = resolver.resolve(wanted)
    return str(resolver.resolve(model)), fields


def _find(resolver: Resolver, value: Any) -> Any:
    return resolver.objects.find(*_find_arguments(resolver, value))


def _find_object(resolver: Resolver, value: Any) -> Any:
    return resolver.objects.find_object(*_find_arguments(resolver, value))


def _context(resolver: Resolver, value: Any) -> Any:
    name, default = _named(resolver, value)
    return resolver.context.get(name, default)


def _env(resolver: Resolver, value: Any) -> Any:
    name, default = _named(resolver, value)
    return resolver.environ.get(name, default)


def _file(resolver: Resolver, value: Any) -> Any:
    name, default = _named(resolver, value)
    try:
        return resolver.read_file(name)
    except OSError:
        if not isinstance(value, list) or len(value) < 2:
            raise
        return default


def _format(resolver: Resolver, value: Any) -> Any:
    template, *arguments = _arguments(resolver, value, 1)
    text, filled = str(resolver.resolve(template)), tuple(resolver.resolve(item) for item in arguments)
    return text % filled


def _condition(resolver: Resolver, value: Any) -> Any:
    mode, *arguments = _arguments(resolver, value, 2)
    name = str(resolver.resolve(mode)).upper()
    if name not in CONDITIONS:
        raise ValueError(f"mode must be one of {', '.join(CONDITIONS)}")
    return CONDITIONS[name]([bool(resolver.resolve(item)) for item in arguments])


def _if(resolver: Resolver, value: Any) -> Any:
    if not isinstance(value, list):
        return bool(resolver.resolve(value))
    if len(value) not in (1, 3):
        raise ValueError("takes a condition, or a condition and two values")
    holds = bool(resolver.resolve(value[0]))
    return holds if len(value) == 1 else value[1 if holds else 2]


def _enumerate(resolver: Resolver, value: Any) -> Any:
    source, kind, body = _arguments(resolver, value, 3, 3)
    items = resolver.resolve(source)
    name = str(resolver.resolve(kind)).upper()
    if name not in {"SEQ", "MAP"}:
        raise ValueError("the second item must be SEQ or MAP")
    if not isinstance(items, list | dict):
        raise ValueError("the first item must be a list or a mapping")
    results = []
    for index, item in items.items() if isinstance(items, dict) else enumerate(items):
        resolver.loops.append((index, item))
        try:
            results.append(resolver.resolve(body))
        finally:
            resolver.loops.pop()
    if name == "SEQ":
        return results
    if any(not isinstance(pair, list) or len(pair) != 2 for pair in results):
        raise ValueError("the body of MAP must be a list of key and value")
    return dict(results)


def _loop(resolver: Resolver, value: Any) -> tuple[Any, Any]:
    depth = int(resolver.resolve(value) or 0)
    if not 0 <= depth < len(resolver.loops):
        raise ValueError(f"is not inside {depth + 1} !Enumerate")
    return resolver.loops[-1 - depth]


def _index(resolver: Resolver, value: Any) -> Any:
    return _loop(resolver, value)[0]


def _value(resolver: Resolver, value: Any) -> Any:
    return _loop(resolver, value)[1]


def _at_index(resolver: Resolver, value: Any) -> Any:
    arguments = _arguments(resolver, value, 2, 3)
    source, key = resolver.resolve(arguments[0]), resolver.resolve(arguments[1])
    try:
        if not isinstance(source, list | dict):
            raise KeyError("not a list or mapping")
        return source[int(key) if isinstance(source, list) else key]
    except (KeyError, IndexError, ValueError, TypeError):
        if len(arguments) == 3:
            return arguments[2]
        raise ValueError(f"there is nothing at {key!r}") from None


def _parse_json(resolver: Resolver, value: Any) -> Any:
    return json.loads(str(resolver.resolve(value)))


RESOLVERS: dict[str, Callable[[Resolver, Any], Any]] = {
    "KeyOf": _key_of,
    "Find": _find,
    "FindObject": _find_object,
    "Context": _context,
    "Env": _env,
    "File": _file,
    "Format": _format,
    "Condition": _condition,
    "If": _if,
    "Enumerate": _enumerate,
    "Index": _index,
    "Value": _value,
    "AtIndex": _at_index,
    "ParseJSON": _parse_json,
}
