# SPDX-License-Identifier: GPL-2.0-only
"""What the plugin does with tests that use its fixtures; imported when the first one is collected."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter

import pytest

from pytest_kvm_sea import requirements
from pytest_kvm_sea.command_line import HOST, PLATFORM, TARGET
from pytest_kvm_sea.platforms.model import Platform
from pytest_kvm_sea.targets import Target, targets

REQUIRES = "kvm_sea_requires"
PLATFORMS = "kvm_sea_platforms"
DISTINCT = "kvm_sea_distinct"
MISUSE: pytest.StashKey[list[str]] = pytest.StashKey()


def parametrize(metafunc: pytest.Metafunc) -> None:
    """Run the test on every target, in the order in which targets were chosen."""
    _check_marks(metafunc)
    try:
        parameters = _parameters(metafunc)
    except pytest.UsageError as error:
        worker = getattr(metafunc.config, "workerinput", None)
        if worker is None:
            raise
        # Of the worker's own environment, which the controller knows nothing of.
        raise pytest.fail.Exception(f"worker {worker['workerid']}: {error}", pytrace=False) from None
    metafunc.parametrize(TARGET, parameters)


def refuse_marks(metafunc: pytest.Metafunc) -> None:
    """A mark of ours on a test that uses no fixture of ours does nothing, and whoever wrote it thinks it does."""
    for mark in metafunc.definition.own_markers:
        if mark.name in (REQUIRES, PLATFORMS, DISTINCT):
            _misuse(metafunc, mark.name, f"the test does not use the fixture {TARGET}, so the mark has no effect")


def finish(config: pytest.Config, items: Sequence[pytest.Item]) -> None:
    """Raise what marks did wrong as pytest.UsageError; write down for the reports what each test runs on."""
    problems: list[str] = config.stash.get(MISUSE, [])
    if problems:
        raise pytest.UsageError(*dict.fromkeys(problems))
    for item in items:
        target = target_of(item)
        if target is not None:
            item.user_properties += target.properties.items()


def target_of(item: pytest.Item) -> Target | None:
    """What a test runs on; None for a test that is not ours."""
    callspec = getattr(item, "callspec", None)
    target = callspec.params.get(TARGET) if callspec else None
    return target if isinstance(target, Target) else None


def _check_marks(metafunc: pytest.Metafunc) -> None:
    for mark in metafunc.definition.iter_markers(REQUIRES):
        problem = requirements.unknown(mark.args) if mark.args else "names no requirement"
        if problem or mark.kwargs:
            _misuse(metafunc, REQUIRES, problem or "takes names only")
    closest = metafunc.definition.get_closest_marker(PLATFORMS)
    if closest and (closest.kwargs or not closest.args or not all(isinstance(name, str) for name in closest.args)):
        _misuse(metafunc, PLATFORMS, "takes the names of platforms, at least one")
    keys = metafunc.definition.get_closest_marker(DISTINCT)
    if keys and (keys.kwargs or not keys.args or not all(_is_key(key) for key in keys.args)):
        _misuse(metafunc, DISTINCT, "takes keys of a platform's file, such as kernel.release or cpu, at least one")


def _parameters(metafunc: pytest.Metafunc) -> list[object]:
    chosen = targets(metafunc.config)
    mark = metafunc.definition.get_closest_marker(PLATFORMS)
    wanted = [target for target in chosen if mark is None or target.name in mark.args]
    if mark is not None and not wanted:
        # A test that is left without a target is skipped aloud instead of vanishing.
        skip = pytest.mark.skip(reason=_only(mark.args, chosen[0].host))
        return [pytest.param(chosen[0], id=chosen[0].id, marks=skip)]
    return [pytest.param(target, id=target.id) for target in _distinct(metafunc, wanted)]


def _distinct(metafunc: pytest.Metafunc, wanted: Sequence[Target]) -> Sequence[Target]:
    """Without those that would show the test nothing that one before them does not."""
    mark = metafunc.definition.get_closest_marker(DISTINCT)
    if mark is None or len(wanted) == 1 or not all(_is_key(key) for key in mark.args):
        return wanted
    value = attrgetter(*mark.args)
    first: dict[object, Target] = {}
    for target in wanted:
        first.setdefault(value(target.load_platform()), target)
    return list(first.values())


def _is_key(key: object) -> bool:
    """Whether this is a key of a platform's file, a section or a dotted path into one."""
    try:
        attrgetter(key)(Platform("any", "Any."))  # type: ignore[call-overload] # whatever the mark was given
    except (AttributeError, TypeError):
        return False
    return True


def _only(names: Sequence[object], host: str) -> str:
    listed = ", ".join(map(str, names))
    if host == "linux":
        return f"[platform] the test runs on the simulated {listed} only; {HOST.flag} sim"
    return f"[platform] the test runs on {listed} only; {' '.join(f'{PLATFORM.flag} {name}' for name in names)}"


def _misuse(metafunc: pytest.Metafunc, mark: str, problem: str) -> None:
    text = f"{metafunc.definition.nodeid}: mark {mark}: {problem}"
    if hasattr(metafunc.config, "workerinput"):
        # A usage error of an xdist worker would reach the user as an internal error of xdist.
        pytest.fail(text, pytrace=False)
    metafunc.config.stash.setdefault(MISUSE, []).append(text)
