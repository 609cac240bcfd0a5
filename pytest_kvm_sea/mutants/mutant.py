# SPDX-License-Identifier: GPL-2.0-only
"""What a mutant is: one bug of the host's kernel or firmware, and the tests that ought to find it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pytest_kvm_sea.mutants.change import Change

DEFAULT_PLATFORM = "ampereone"
_KILLER = re.compile(r"(?P<module>\w+)::(?P<name>\w+)(?:\[(?P<words>[^]]+)\])?")


@dataclass(frozen=True, slots=True)
class Mutant:
    """A host with one bug."""

    name: str
    """As the command takes it: lower case letters, digits, and '-' between them."""
    bug: str
    """What is wrong, as one developer would tell another."""
    changes: tuple[Change, ...]
    killers: tuple[str, ...]
    """The tests that ought to notice, by what they are for: ``test_sea_to_user::test_access[el0]``.

    In brackets are parts of the test's id, separated by commas, all of which it has. Every test that such a line
    selects has to fail.
    """
    platforms: tuple[str, ...] = (DEFAULT_PLATFORM,)
    defects: tuple[str, ...] = ()
    """Numbers of docs/originals.md: the defects of the C originals that let this bug through."""

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """While the context lasts, the simulated hosts of this process have the bug. Raises ChangeError."""
        with contextlib.ExitStack() as stack:
            for change in self.changes:
                stack.enter_context(change.applied())
            yield

    def expects(self, test: str) -> bool:
        """Whether this is one of the tests that ought to notice."""
        return any(selects(killer, test) for killer in self.killers)

    @property
    def modules(self) -> tuple[str, ...]:
        """The test modules that the killers are in."""
        return tuple(dict.fromkeys(killer.partition("::")[0] for killer in self.killers))


def selects(killer: str, test: str) -> bool:
    """Whether a line of `Mutant.killers` means a test: ``module::function[id]``, the id with the target before it."""
    wanted = _KILLER.fullmatch(killer)
    if wanted is None:
        raise ValueError(f"{killer!r} is not of the form module::function[words]")
    function, _, identifier = test.rstrip("]").partition("[")
    if function != f"{wanted['module']}::{wanted['name']}":
        return False
    words = (wanted["words"] or "").split(",")
    return all(f"-{word.strip()}-" in f"-{identifier}-" for word in words if word)


def unmatched(killers: Iterable[str], tests: Iterable[str]) -> list[str]:
    """Killers that select none of these tests."""
    known = list(tests)
    return [killer for killer in killers if not any(selects(killer, test) for test in known)]
