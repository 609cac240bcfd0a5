# SPDX-License-Identifier: GPL-2.0-only
"""What an unrelated pytest run pays for having the plugin installed. Target: at most 1.03 times as long as without.

Run it as a script. Two copies of this interpreter's packages, with and without the plugin, run the same tests in turns;
the medians are printed, and the ratio. Nothing is installed or removed in the environment itself.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import resource
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import pytest_kvm_sea

DISTRIBUTION = "pytest-kvm-sea"
TARGET = 1.03
TESTS = """
import pytest

@pytest.mark.parametrize("number", range({count}))
def test_it(number):
    assert number >= 0
"""


class Cost(NamedTuple):
    """Seconds of one run. Processor time is what other work on the machine disturbs least."""

    elapsed: float
    processor: float


def link_packages(directory: Path) -> None:
    """All packages of this interpreter but the plugin, as links."""
    directory.mkdir()
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if "kvm_sea" not in path.name and path.suffix != ".pth":
            (directory / path.name).symlink_to(path)


def copy_plugin(directory: Path) -> None:
    """The plugin as pip would install it: the package, its entry point and the list of its files."""
    package = Path(pytest_kvm_sea.__file__).parent
    shutil.copytree(package, directory / package.name, ignore=shutil.ignore_patterns("__pycache__"))
    distribution = importlib.metadata.distribution(DISTRIBUTION)
    info = directory / f"pytest_kvm_sea-{distribution.version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {DISTRIBUTION}\nVersion: {distribution.version}\n")
    (info / "entry_points.txt").write_text("[pytest11]\nkvm-sea = pytest_kvm_sea.plugin\n")
    files = [path.relative_to(directory) for path in (directory / package.name).rglob("*") if path.is_file()]
    (info / "RECORD").write_text("".join(f"{path},,\n" for path in files))


def run(packages: Path, tests: Path) -> Cost:
    """One pytest run that sees only these packages."""
    environment = {**os.environ, "PYTHONPATH": str(packages), "PYTEST_ADDOPTS": ""}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # compiling is not what is measured
    used, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(
        [sys.executable, "-S", "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tests)],
        check=True,
        env=environment,
        cwd=tests,
        stdout=subprocess.DEVNULL,
    )
    elapsed, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return Cost(elapsed, after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime)


def report(kind: str, pairs: list[tuple[float, float]]) -> None:
    without, with_plugin = (statistics.median(column) * 1e3 for column in zip(*pairs, strict=True))
    ratio = statistics.median(pair[1] / pair[0] for pair in pairs)
    print(f"{kind:12} without {without:7.1f} ms   with {with_plugin:7.1f} ms   ratio {ratio:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=25, help="pairs of runs (default: 25)")
    parser.add_argument("--tests", type=int, default=20, help="tests in a run (default: 20)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kvm-sea-bench-") as name:
        root = Path(name)
        tests = root / "tests"
        tests.mkdir()
        (tests / "test_it.py").write_text(TESTS.format(count=arguments.tests))
        without, with_plugin = root / "without", root / "with"
        link_packages(without)
        link_packages(with_plugin)
        copy_plugin(with_plugin)
        for packages in (without, with_plugin):
            run(packages, tests)  # compiles what is not compiled yet
        pairs: list[tuple[Cost, Cost]] = []
        for number in range(arguments.rounds):
            # In turns, and each in front as often as the other, so that a slow minute hits both.
            order = (without, with_plugin) if number % 2 else (with_plugin, without)
            costs = {packages: run(packages, tests) for packages in order}
            pairs.append((costs[without], costs[with_plugin]))
    print(f"medians of {len(pairs)} pairs of runs of {arguments.tests} tests; target: a ratio of at most {TARGET}")
    report("elapsed", [(one.elapsed, other.elapsed) for one, other in pairs])
    report("processor", [(one.processor, other.processor) for one, other in pairs])


if __name__ == "__main__":
    main()
