#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Results for LAVA: one `lava-test-case` for each test in a file of --kvm-sea-json. LAVA has no expected failures."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from pytest_kvm_sea.reports.jsonl import read
from pytest_kvm_sea.reports.record import Outcome

RESULTS = {Outcome.PASS: "pass", Outcome.XFAIL: "pass", Outcome.XPASS: "fail", Outcome.SKIP: "skip"}


def main() -> int:
    run = read(Path(sys.argv[1]))
    if run is None:
        print(f"{sys.argv[1]}: no run in it", file=sys.stderr)
        return 1
    for record in run.records:
        name = re.sub(r"[^\w.-]+", "_", record.test.nodeid).strip("_")
        result = RESULTS.get(record.outcome, "fail")
        subprocess.run(["lava-test-case", name, "--result", result], check=True)
    for test in run.unfinished:
        name = re.sub(r"[^\w.-]+", "_", test.nodeid).strip("_")
        subprocess.run(["lava-test-case", name, "--result", "unknown"], check=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
