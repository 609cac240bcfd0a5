# SPDX-License-Identifier: GPL-2.0-only
"""The port of a firmware that plays along: one line of JSON asks, one line answers.

A request is an object with ``op`` and what that operation takes: `{"op": "break", "hpa": 1073741824}`. The answer has
``ok``; with it what the operation gives, or ``error``, a text for people. docs/firmware.md has the operations.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, TypeVar

NAME = "org.pytest-kvm-sea.firmware"
"""The name of the virtio-serial port."""
PATH = f"/dev/virtio-ports/{NAME}"
"""Where it is, once a udev rule or an init script has made the link that is usual."""
LONGEST = 4096
"""Bytes of a request or an answer, its newline included."""

Operation: TypeAlias = Callable[[Mapping[str, Any]], Mapping[str, object]]
"""What carries a request out: gets the request, gives what belongs into the answer. Raises RequestError."""


_Choice = TypeVar("_Choice", bound=enum.Enum)


class RequestError(Exception):
    """A request that cannot be carried out; the text is for whoever made it. Nothing was changed."""


def answer(line: bytes, operations: Mapping[str, Operation]) -> bytes:
    """Carry out one request, and give the line that answers it. Raises nothing for a wrong request."""
    try:
        reply: Mapping[str, object] = {"ok": True, **_carry_out(line, operations)}
    except RequestError as error:
        reply = {"ok": False, "error": str(error)}
    return json.dumps(reply).encode() + b"\n"


def number(request: Mapping[str, Any], name: str) -> int:
    """A number of a request. Raises RequestError."""
    value = request.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise RequestError(f"{name} is {value!r}; it must be a number, not below zero")
    return value


def choice(request: Mapping[str, Any], name: str, kinds: type[_Choice]) -> _Choice:
    """One of the words of ``kinds``. Raises RequestError."""
    value = request.get(name)
    try:
        return kinds(value)
    except ValueError:
        words = ", ".join(str(kind.value) for kind in kinds)
        raise RequestError(f"unknown {name} {value!r}; there are {words}") from None


def _carry_out(line: bytes, operations: Mapping[str, Operation]) -> Mapping[str, object]:
    try:
        request = json.loads(line)
    except ValueError as error:
        raise RequestError(f"the request is not JSON: {error}") from None
    if not isinstance(request, dict):
        raise RequestError(f"the request is {request!r}; it must be an object")
    operation = operations.get(str(request.get("op")))
    if operation is None:
        raise RequestError(f"unknown operation {request.get('op')!r}; there are {', '.join(sorted(operations))}")
    return operation(request)
