# SPDX-License-Identifier: GPL-2.0-only
"""The command: ``python -m pytest_kvm_sea.emulated [OPTIONS] -- PYTEST ARGUMENTS``."""

from __future__ import annotations

import sys

from pytest_kvm_sea.emulated.cli import main

sys.exit(main(sys.argv[1:]))
