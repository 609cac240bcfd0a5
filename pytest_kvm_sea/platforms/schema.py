# SPDX-License-Identifier: GPL-2.0-only
"""From YAML nodes to dataclasses such as those of `platforms.model`: the dataclass is the schema.

Nodes, not values: a node still knows its line and column, whether a scalar was quoted, and that a key came twice.
"""

from __future__ import annotations

import dataclasses
import enum
import re
from collections.abc import Mapping
from typing import Annotated, Any, NoReturn, TypeVar, get_args, get_origin, get_type_hints

import yaml

from pytest_kvm_sea.platforms.errors import PlatformError, choices
from pytest_kvm_sea.platforms.model import (
    GIB,
    KIB,
    MIB,
    Bits,
    Line,
    NotEmpty,
    OneOf,
    Pattern,
    Platform,
    Range,
    Short,
    Unit,
)

_TAG = "tag:yaml.org,2002:"
_KINDS = {
    "str": "a text",
    "int": "a number",
    "float": "a number with a fraction",
    "bool": "a truth value",
    "null": "nothing",
    "map": "a mapping",
    "seq": "a list",
    "timestamp": "a date",
}
_INTEGER = re.compile(r"0x[0-9a-fA-F]+|0|[1-9][0-9]*")
_SIZE = re.compile(r"([1-9][0-9]*)(KiB|MiB|GiB)")
_UNITS = {"KiB": KIB, "MiB": MIB, "GiB": GIB}
_TRUTH = {"true": True, "false": False}

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Document:
    """One file being read: its name for messages, and where each key that it gives stands."""

    filename: str
    noun: str = "a platform"
    """What the file is, for messages."""
    root: type = Platform
    """What all of it is read into: where a key that stands in the wrong place is looked for."""
    error: type[Exception] = PlatformError
    """What is raised for a mistake in it."""
    given: dict[str, yaml.Node] = dataclasses.field(default_factory=dict)
    """From `firmware.einj.module` to the node of the value."""

    def fail(self, mark: yaml.Mark | None, problem: str) -> NoReturn:
        place = f"{self.filename}:{mark.line + 1}:{mark.column + 1}" if mark else self.filename
        raise self.error(f"{place}: {problem}")

    def read(self, node: yaml.Node, cls: type[T], path: str = "") -> T:
        """The dataclass `cls` from a mapping node. Keys left out take the defaults of the dataclass."""
        items = self._items(node, path)
        self._check_known(cls, items, path)
        self._check_required(node, cls, items)
        hints = _hints(cls)
        values: dict[str, Any] = {}
        for key, (_, value) in items.items():
            where = f"{path}.{key}" if path else key
            self.given[where] = value
            values[key] = self._value(value, hints[key], where)
        return cls(**values, **dict.fromkeys(_line_fields(cls), node.start_mark.line + 1))

    def _items(self, node: yaml.Node, path: str) -> Mapping[str, tuple[yaml.Node, yaml.Node]]:
        if not isinstance(node, yaml.MappingNode) or node.tag != f"{_TAG}map":
            self._wrong_type(node, path or self.noun, "a mapping of keys to values")
        items: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        for key_node, value in node.value:
            key = self._key(key_node)
            if key in items:
                first = items[key][0].start_mark
                self.fail(
                    key_node.start_mark,
                    f"key {key!r} is given twice, first at line {first.line + 1}; every key may be given once",
                )
            items[key] = (key_node, value)
        return items

    def _key(self, node: yaml.Node) -> str:
        if node.tag == f"{_TAG}merge":
            self.fail(node.start_mark, "merge keys (`<<`) are not read; write the keys out, or use an alias")
        if not isinstance(node, yaml.ScalarNode) or node.tag != f"{_TAG}str":
            self.fail(node.start_mark, f"a key is a plain word, not {_describe(node)}")
        return str(node.value)

    def _check_known(self, cls: type, items: Mapping[str, tuple[yaml.Node, yaml.Node]], path: str) -> None:
        for key, (node, _) in items.items():
            if key not in _hints(cls):
                where = f" in {path!r}" if path else ""
                hint = choices(key, _hints(cls), noun="key", nearest=_elsewhere(key, self.root))
                self.fail(node.start_mark, f"unknown key {key!r}{where}; {hint}")

    def _check_required(self, node: yaml.Node, cls: type, items: Mapping[str, object]) -> None:
        absent = [
            item.name
            for item in dataclasses.fields(cls)
            if item.default is dataclasses.MISSING
            and item.default_factory is dataclasses.MISSING
            and item.name not in items
        ]
        if absent:
            self.fail(node.start_mark, f"required key missing: {', '.join(absent)}")

    def _value(self, node: yaml.Node, hint: Any, path: str) -> object:
        notes: tuple[object, ...] = ()
        if get_origin(hint) is Annotated:
            hint, *rest = get_args(hint)
            notes = tuple(rest)
        if get_origin(hint) is tuple:
            if NotEmpty() in notes and isinstance(node, yaml.SequenceNode) and not node.value:
                self.fail(node.start_mark, f"{path}: the list is empty; name something, or leave {path!r} out")
            return self._sequence(node, get_args(hint)[0], path)
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            for note in notes:
                if isinstance(note, Short) and isinstance(node, yaml.ScalarNode):
                    return self._short(node, hint, note.key, path)
            return self.read(node, hint, path)
        if isinstance(hint, type) and issubclass(hint, enum.Enum):
            return self._member(node, hint, path)
        if hint is bool:
            return self._truth(node, path)
        value = self._text(node, path) if hint is str else self._number(node, path, notes)
        for note in notes:
            self._check(node, value, note, path)
        return value

    def _short(self, node: yaml.ScalarNode, cls: type, key: str, path: str) -> object:
        value = self._value(node, _hints(cls)[key], path)
        return cls(**{key: value}, **dict.fromkeys(_line_fields(cls), node.start_mark.line + 1))

    def _sequence(self, node: yaml.Node, hint: Any, path: str) -> tuple[object, ...]:
        if not isinstance(node, yaml.SequenceNode) or node.tag != f"{_TAG}seq":
            self._wrong_type(node, path, "a list, as [0x8, 0x10]")
        values: list[object] = []
        for index, item in enumerate(node.value):
            where = f"{path}[{index}]"
            self.given[where] = item
            value = self._value(item, hint, where)
            if value in values:
                what = item.value if isinstance(item, yaml.ScalarNode) else "the same"
                self.fail(item.start_mark, f"{path}: {what} is listed twice")
            values.append(value)
        return tuple(values)

    def _member(self, node: yaml.Node, kind: type[enum.Enum], path: str) -> enum.Enum:
        text = self._text(node, path)
        members = {str(member.value): member for member in kind}
        if text not in members:
            self.fail(node.start_mark, f"{path}: {text!r} is not known; {choices(text, members, noun='value')}")
        return members[text]

    def _truth(self, node: yaml.Node, path: str) -> bool:
        # YAML 1.1 also reads yes, no, on and off as truth values: one spelling is enough.
        if not isinstance(node, yaml.ScalarNode) or node.tag != f"{_TAG}bool" or node.value not in _TRUTH:
            self._wrong_type(node, path, "true or false")
        return _TRUTH[node.value]

    def _text(self, node: yaml.Node, path: str) -> str:
        if not isinstance(node, yaml.ScalarNode) or node.tag != f"{_TAG}str":
            hint = ' (put it in quotes: "...")' if isinstance(node, yaml.ScalarNode) else ""
            self._wrong_type(node, path, f"a text{hint}")
        return str(node.value)

    def _number(self, node: yaml.Node, path: str, notes: tuple[object, ...]) -> int:
        if any(isinstance(note, Unit) for note in notes):
            return self._size(node, path)
        if not isinstance(node, yaml.ScalarNode) or node.tag != f"{_TAG}int" or not _INTEGER.fullmatch(node.value):
            self._wrong_type(node, path, "a whole number, decimal or 0x...")
        return int(node.value, 0)

    def _size(self, node: yaml.Node, path: str) -> int:
        found = _SIZE.fullmatch(node.value) if isinstance(node, yaml.ScalarNode) and node.tag == f"{_TAG}str" else None
        if found is None:
            self._wrong_type(node, path, "a size with its unit: KiB, MiB or GiB, as 64KiB")
        return int(found[1]) * _UNITS[found[2]]

    def _check(self, node: yaml.Node, value: int | str, note: object, path: str) -> None:
        problem = _violation(value, note)
        if problem:
            self.fail(node.start_mark, f"{path}: {node.value} {problem}")

    def _wrong_type(self, node: yaml.Node, path: str, expected: str) -> NoReturn:
        self.fail(node.start_mark, f"{path}: wrong type, {_describe(node)}; expected {expected}")


_HINTS: dict[type, dict[str, Any]] = {}


def _hints(cls: type) -> dict[str, Any]:
    """The types of the keys with their annotations; evaluated once per class, which is the dearest part of reading."""
    if cls not in _HINTS:
        hints = get_type_hints(cls, include_extras=True)
        _HINTS[cls] = {name: hint for name, hint in hints.items() if not _is_line(hint)}
    return _HINTS[cls]


def _line_fields(cls: type) -> list[str]:
    """The fields that are no keys, and hold the line instead."""
    return [item.name for item in dataclasses.fields(cls) if item.name not in _hints(cls)]


def _is_line(hint: Any) -> bool:
    return get_origin(hint) is Annotated and any(isinstance(note, Line) for note in get_args(hint))


def _elsewhere(key: str, cls: type, path: str = "") -> str | None:
    """Where in a platform a key of that name would stand: a right key in the wrong section is the commonest slip."""
    for name, hint in _hints(cls).items():
        if name == key:
            return f"{path}{name}"
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            found = _elsewhere(key, hint, f"{path}{name}.")
            if found:
                return found
    return None


def _describe(node: yaml.Node) -> str:
    kind = node.tag.removeprefix(_TAG)
    name = _KINDS.get(kind, f"the tag {node.tag!r}")
    return f"{node.value!r} ({name})" if isinstance(node, yaml.ScalarNode) and node.value else name


def _violation(value: int | str, note: object) -> str | None:
    """What is wrong with a value under one annotation of the model."""
    match note, value:
        case Range(lowest, highest), int() if not lowest <= value <= highest:
            return f"is out of range; valid: {format_size(lowest, highest)}"
        case OneOf(values), _ if value not in values:
            valid = [str(item) if isinstance(item, str) else size(item) for item in values]
            return f"is not known; {choices(str(value), valid, noun='value')}"
        case Pattern(expression, words), str() if not re.fullmatch(expression, value, re.ASCII):
            return f"is not {words}"
        case Bits(mask), int() if value & ~mask or value.bit_count() != 1:
            return f"is not one bit of {mask:#010x}"
        case Unit(step), int() if value % step:
            return f"is not a multiple of {size(step)}"
    return None


def size(number: int) -> str:
    """A number of bytes as it is written in a file: the largest unit that divides it."""
    for unit, factor in reversed(_UNITS.items()):
        if number and number % factor == 0:
            return f"{number // factor}{unit}"
    return str(number)


def format_size(lowest: int, highest: int) -> str:
    """A range as it would be written: `32 to 52`, `1GiB to 4096GiB`."""
    if lowest >= MIB:
        return f"{size(lowest)} to {size(highest)}"
    return f"{lowest} to {highest}"
