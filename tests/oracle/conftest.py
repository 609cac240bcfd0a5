# SPDX-License-Identifier: GPL-2.0-only
"""Makes `tests.oracle` importable, from wherever pytest is run."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
