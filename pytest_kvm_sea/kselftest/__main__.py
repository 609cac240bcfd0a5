# SPDX-License-Identifier: GPL-2.0-only
"""`python -m pytest_kvm_sea.kselftest`"""

from __future__ import annotations

import sys

from pytest_kvm_sea.kselftest.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
