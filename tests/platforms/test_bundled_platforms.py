# SPDX-License-Identifier: GPL-2.0-only
"""The platforms that come with the package."""

from __future__ import annotations

import ast
import dataclasses
import inspect
from typing import get_args, get_type_hints

import pytest
import yaml

from pytest_kvm_sea import command_line
from pytest_kvm_sea.platforms import model, source
from pytest_kvm_sea.platforms.loader import bundled_names, load_bundled, parse
from pytest_kvm_sea.platforms.names import bundled_path
from pytest_kvm_sea.uapi.revisions import REVISIONS

PLATFORMS = {name: load_bundled(name) for name in bundled_names()}

WANTED = {
    "ampereone",
    "neoverse-v2",
    "no-einj-table",
    "einj-not-loaded",
    "einj-no-parameters",
    "einj-no-poison",
    "einj-v2",
    "apei-claims",
    "no-ras",
    "no-ras-parity",
    "host-64k",
    "no-sea-capability",
    "mainline-6.19",
    "series-v1",
    "series-v1-neoverse-v2",
    "locked-down",
    "unprivileged",
}


def test_the_set_is_complete() -> None:
    assert set(bundled_names()) >= WANTED


@pytest.mark.parametrize("name", PLATFORMS)
def test_file_and_platform_have_one_name(name: str) -> None:
    platform = PLATFORMS[name]
    assert platform.name == name
    assert platform.description.endswith(".")
    assert ". " not in platform.description


def test_no_two_are_the_same() -> None:
    behaviour = [dataclasses.replace(platform, name="", description="") for platform in PLATFORMS.values()]
    assert all(one not in behaviour[:index] for index, one in enumerate(behaviour))


@pytest.mark.parametrize("name", PLATFORMS)
def test_both_parsers_read_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "_LOADER", yaml.SafeLoader)
    assert parse(bundled_path(name).read_text(encoding="utf-8"), name) == PLATFORMS[name]


@pytest.mark.parametrize("name", PLATFORMS)
def test_quirks_fit_the_release(name: str) -> None:
    """What the kernel of a release does is known (the fields of the model say it)."""
    kernel = PLATFORMS[name].kernel
    major, minor = (int(part) for part in kernel.release.split(".")[:2])
    release = (major, minor)
    assert kernel.il_from_last_trap == (release < (7, 2))
    assert kernel.immediate_injection == (release >= (6, 17))
    assert kernel.s1ptw_level == (release >= (7, 0))
    assert kernel.einj_v2 == (release >= (6, 17))
    assert kernel.einj_any_memory == (release >= (6, 18))
    if release <= (6, 16) or release >= (7, 3):  # when it came in between is not known
        assert kernel.ghes_tells_duplicates == (release >= (7, 3))
    if kernel.uapi == "mainline":
        assert kernel.sea_to_user == (release >= (6, 19))


def test_every_key_is_documented() -> None:
    tree = ast.parse(inspect.getsource(model))
    without = []
    for node in tree.body:
        if not isinstance(node, ast.ClassDef) or node.name not in sections():
            continue
        for index, item in enumerate(node.body):
            following = node.body[index + 1] if index + 1 < len(node.body) else None
            if isinstance(item, ast.AnnAssign) and not (
                isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
            ):
                without.append(f"{node.name}.{ast.unparse(item.target)}")
    assert without == [], "every key of a platform needs a text"


def sections(cls: type = model.Platform) -> set[str]:
    """The dataclasses that a platform is made of, by name."""
    found = {cls.__name__}
    for hint in get_type_hints(cls).values():
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            found |= sections(hint)
    return found


def test_the_revisions_are_those_of_the_user_api() -> None:
    # platforms and command_line may not import uapi, so both repeat its names.
    hint = get_type_hints(model.Kernel, include_extras=True)["uapi"]
    (one_of,) = [note for note in get_args(hint) if isinstance(note, model.OneOf)]
    assert set(one_of.values) == set(REVISIONS) == set(command_line.REVISIONS)


def test_names_are_loaded_once() -> None:
    assert load_bundled("ampereone") is load_bundled("ampereone")
