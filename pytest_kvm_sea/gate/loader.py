# SPDX-License-Identifier: GPL-2.0-only
"""A file of expectations, read and checked as far as that goes without a run. What is wrong is a GateError."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from pytest_kvm_sea.gate import kernels
from pytest_kvm_sea.gate.errors import GateError
from pytest_kvm_sea.gate.model import ANY, Expectations
from pytest_kvm_sea.gate.rules import Rules
from pytest_kvm_sea.platforms.errors import choices
from pytest_kvm_sea.platforms.schema import Document
from pytest_kvm_sea.platforms.source import compose, read_text

MAX_SIZE = 1024 * 1024
"""Bytes. Room for thousands of entries."""


def load(path: Path, name: str, needs: Mapping[str, Sequence[str]]) -> Rules:
    """The rules of a file. Raises GateError.

    ``name`` is what the file is called in messages; ``needs``: all capabilities that can be promised, and what each
    of them needs.
    """
    document = _document(name)
    return parse(read_text(path, document, MAX_SIZE), name, needs)


def parse(text: str, name: str, needs: Mapping[str, Sequence[str]]) -> Rules:
    """The same from the text of a file."""
    document = _document(name)
    node = compose(text, document)
    if node is None:
        document.fail(None, "the file is empty; required key: version")
    given = document.read(node, Expectations)
    _check(given, document, needs)
    lines = {key: value.start_mark.line + 1 for key, value in document.given.items() if key in ("targets", "at_least")}
    return Rules(name, given, needs, lines)


def _document(name: str) -> Document:
    return Document(name, noun="a file of expectations", root=Expectations, error=GateError)


def _check(given: Expectations, document: Document, needs: Mapping[str, Sequence[str]]) -> None:
    for index, promise in enumerate(given.promises):
        if promise.name not in needs:
            _fail(document, f"promises[{index}]", "name", _unknown(promise.name, needs))
    for index, skip in enumerate(given.skips):
        if skip.id == ANY and not skip.tests:
            _fail(document, f"skips[{index}]", "id", "'*' allows every skip of every test; name the tests: add `tests`")
    for index, known in enumerate(given.known):
        try:
            kernels.parse(known.kernel)
        except ValueError as error:
            _fail(document, f"known[{index}]", "kernel", str(error))


def _unknown(name: str, needs: Mapping[str, Sequence[str]]) -> str:
    return f"unknown requirement {name!r}; {choices(name, needs, noun='requirement')}"


def _fail(document: Document, entry: str, key: str, problem: str) -> None:
    where = f"{entry}.{key}"
    node: yaml.Node = document.given.get(where) or document.given[entry]
    document.fail(node.start_mark, f"{where}: {problem}")
