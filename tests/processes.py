# SPDX-License-Identifier: GPL-2.0-only
"""Python programs that begin together, for tests of what several processes do at once."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Sequence
from typing import Any


def run_at_once(script: str, *arguments: Sequence[str], **popen: Any) -> list[subprocess.Popen[str]]:
    """Run a program once for each sequence of arguments; it prints ``ready``, and goes on when it gets a line.

    All have ended afterwards, and none with a complaint.
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    pipe = subprocess.PIPE
    made = [
        subprocess.Popen([*command, *each], stdin=pipe, stdout=pipe, stderr=pipe, text=True, **popen)
        for each in arguments
    ]
    for process in made:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in made:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    for process in made:
        _, errors = process.communicate(timeout=120)
        assert (process.returncode, errors) == (0, "")
    return made
