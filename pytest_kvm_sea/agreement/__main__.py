# SPDX-License-Identifier: GPL-2.0-only
"""Record what this machine's KVM does, and compare records.

python -m pytest_kvm_sea.agreement record FILE        on an arm64 machine with /dev/kvm
python -m pytest_kvm_sea.agreement compare FILE FILE
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pytest_kvm_sea.agreement import records
from pytest_kvm_sea.agreement.compare import compare
from pytest_kvm_sea.agreement.explained import unexplained
from pytest_kvm_sea.agreement.scenario import play_all
from pytest_kvm_sea.agreement.scenarios import all_scenarios
from pytest_kvm_sea.hosts.linux import LinuxHost
from pytest_kvm_sea.uapi.revisions import REVISIONS


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m pytest_kvm_sea.agreement", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    record = commands.add_parser("record", help="play all scenarios on this machine and write down what was seen")
    record.add_argument("file", type=Path)
    record.add_argument("--uapi", choices=sorted(REVISIONS), default="mainline", help="what the kernel speaks")
    both = commands.add_parser("compare", help="print every difference between two records; exit 1 if there is one")
    both.add_argument("left", type=Path)
    both.add_argument("right", type=Path)
    return parser.parse_args()


def _record(path: Path, revision: str) -> int:
    host = LinuxHost(REVISIONS[revision])
    observations = play_all(host, all_scenarios())
    records.write(path, records.Recorded(host.release, revision, observations))
    _say(f"{len(observations)} scenarios on {host.release}: {path}")
    return 0


def _compare(left: Path, right: Path) -> int:
    first, second = records.read(left), records.read(right)
    found = compare(first.observations, second.observations)
    findings = unexplained(found)
    for difference in findings:
        _say(str(difference))
    explained = f", {len(found) - len(findings)} more are explained" if len(findings) < len(found) else ""
    _say(f"{left} ({first.release}) | {right} ({second.release}): {len(findings)} differences{explained}")
    return 1 if findings else 0


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def main() -> int:
    arguments = _arguments()
    try:
        if arguments.command == "record":
            return _record(arguments.file, arguments.uapi)
        return _compare(arguments.left, arguments.right)
    except (OSError, records.RecordError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2


if __name__ == "__main__":
    sys.exit(main())
