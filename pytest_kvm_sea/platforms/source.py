# SPDX-License-Identifier: GPL-2.0-only
"""From a file to the nodes of its YAML. What is wrong with it is said in the words of its `Document`."""

from __future__ import annotations

import stat
from pathlib import Path

import yaml

from pytest_kvm_sea.platforms.schema import Document

# The C loader where PyYAML was built with libyaml: ten times as fast, the same nodes and marks.
_LOADER: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def compose(text: str, document: Document) -> yaml.Node | None:
    """The root of the YAML in ``text``; None where there is nothing in it. Raises the document's error."""
    try:
        node: yaml.Node | None = yaml.compose(text, Loader=_LOADER)
    except yaml.MarkedYAMLError as error:
        problem = ", ".join(part for part in (error.context, error.problem) if part)
        document.fail(error.problem_mark or error.context_mark, f"not YAML: {problem}")
    except yaml.reader.ReaderError as error:
        document.fail(None, f"not YAML: character {error.position}: {error.reason}")
    except RecursionError:
        document.fail(None, f"not {document.noun}: nested too deeply")
    return node


def read_text(path: Path, document: Document, max_size: int) -> str:
    """The text of a regular file of at most ``max_size`` bytes, UTF-8. Raises the document's error."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            document.fail(None, "is a directory; give a YAML file of it")
        if not stat.S_ISREG(mode):
            document.fail(None, "is not a regular file")
        with path.open("rb") as stream:
            data = stream.read(max_size + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        document.fail(None, f"cannot be read: {reason}")
    if len(data) > max_size:
        document.fail(None, f"larger than {max_size // 1024} KiB; not {document.noun}")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - data.rfind(b"\n", 0, error.start)
        raise document.error(f"{document.filename}:{line}:{column}: not UTF-8: byte {data[error.start]:#04x}") from None
