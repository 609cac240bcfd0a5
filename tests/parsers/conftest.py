# SPDX-License-Identifier: GPL-2.0-only
"""The parsers of others. They are no part of the ordinary set-up: `tox run -e parsers` has them all."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from pytest_kvm_sea.emulated.errors import EmulationError
from tests.parsers import kunit_source


@pytest.fixture(scope="session")
def kunit() -> Path:
    """The directory of the kernel's kunit.py."""
    try:
        found = kunit_source.find()
    except EmulationError as error:
        pytest.fail(str(error), pytrace=False)
    if found is None:
        pytest.skip(
            "[kunit] the kernel's kunit.py is not here; tox run -e parsers fetches it with apt, or "
            f"{kunit_source.VARIABLE}=KERNEL/{kunit_source.INSIDE}"
        )
    return found


@pytest.fixture(scope="session")
def tap_py() -> None:
    """tap.py can be imported, with what it needs for TAP 13."""
    missing = [name for name in ("tap", "more_itertools") if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(
            f"[tap.py] no module {' and no '.join(missing)}; pip install --group parsers, or tox run -e parsers"
        )
