# SPDX-License-Identifier: GPL-2.0-only
"""Shared by the tests of this project."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil

import pytest

import pytest_kvm_sea

# pytest loads this file for the selftests as well when they run in a checkout, and they do not need Hypothesis.
if importlib.util.find_spec("hypothesis"):
    from hypothesis import settings

    # No deadline: how long one example takes on a busy machine says nothing about the code.
    settings.register_profile("kvm-sea", deadline=None, print_blob=True)
    settings.load_profile("kvm-sea")


@pytest.fixture(scope="session")
def whole_package() -> None:
    """Import all of it."""
    for module in pkgutil.walk_packages(pytest_kvm_sea.__path__, f"{pytest_kvm_sea.__name__}."):
        if ".selftests" not in module.name and not module.name.endswith(".__main__"):
            importlib.import_module(module.name)


@pytest.fixture
def pytester(whole_package: None, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """Runs inside this process forget the modules that they imported first, and the next one gets others of that name.

    A package of which one half is imported anew is not the same package any more: all of it is imported beforehand.
    (Its scope makes `whole_package` come first.)
    """
    # A plugin that the outer run has loaded cannot be rewritten any more; pytest says so where it finds it twice.
    monkeypatch.setenv("PYTEST_ADDOPTS", "-W ignore::pytest.PytestAssertRewriteWarning")
    return pytester
