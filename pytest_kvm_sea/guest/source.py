# SPDX-License-Identifier: GPL-2.0-only
"""Which line of Python made a piece of guest code, and what its arguments look like in the source."""

from __future__ import annotations

import ast
import inspect
import itertools
import linecache
from functools import lru_cache
from pathlib import PurePath
from types import CodeType, FrameType

_PACKAGE = "pytest_kvm_sea.guest."
_CODE_UNIT = 2
_MAX_TEXT = 200


def caller() -> FrameType:
    """The innermost frame that is not of this package: the guest code in Python."""
    frame = inspect.currentframe()
    while frame is not None and frame.f_globals.get("__name__", "").startswith(_PACKAGE):
        frame = frame.f_back
    if frame is None:
        raise RuntimeError("guest code is built by a caller outside of the guest package")
    return frame


def argument_texts(frame: FrameType) -> tuple[str, ...]:
    """The positional arguments of the call that this frame is in, as written; empty where there is no source."""
    return _argument_texts(frame.f_code, frame.f_lasti)


@lru_cache(maxsize=256)
def file_name(path: str) -> str:
    """The name of a source file without its directory, so that an image is the same on every machine."""
    return PurePath(path).name


def line_text(path: str, line: int) -> str:
    """The stripped line of a source file; empty where there is none."""
    return linecache.getline(path, line).strip()


@lru_cache(maxsize=1024)
def _argument_texts(code: CodeType, instruction: int) -> tuple[str, ...]:
    position = next(itertools.islice(code.co_positions(), instruction // _CODE_UNIT, None), None)
    if position is None or None in position:
        return ()
    line, end_line, column, end_column = position
    assert line is not None
    assert end_line is not None
    lines = [linecache.getline(code.co_filename, number).encode() for number in range(line, end_line + 1)]
    if not all(lines):
        return ()
    # Columns count bytes; the end first, because both may be on one line.
    lines[-1] = lines[-1][:end_column]
    lines[0] = lines[0][column:]
    text = b"".join(lines).decode()
    try:
        call = ast.parse(text, mode="eval").body
    except SyntaxError:
        return ()
    if not isinstance(call, ast.Call):
        return ()
    return tuple(_shorten(_written(text, argument)) for argument in call.args)


def _written(text: str, node: ast.AST) -> str:
    """A node as it is written; without its line breaks and comments where it has any."""
    segment = ast.get_source_segment(text, node)
    return ast.unparse(node) if segment is None or "\n" in segment else segment


def _shorten(text: str) -> str:
    return text if len(text) <= _MAX_TEXT else text[:_MAX_TEXT] + "…"
