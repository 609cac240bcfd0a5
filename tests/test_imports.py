# SPDX-License-Identifier: GPL-2.0-only
"""The house rules: who may import whom, what loading the plugin costs, and what every file carries."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest_kvm_sea

PACKAGE = Path(pytest_kvm_sea.__file__).parent
ROOT = Path(__file__).parents[1]

ORDER = (
    "kselftest",
    "mutants",
    "plugin",
    "commands",
    "gating",
    "collection",
    "fixtures",
    "storytelling",
    "reporting",
    "exit_codes",
    "outputs",
    "standard_output",
    "file_names",
    "reasons",
    "resume",
    "properties",
    "injection",
    "providers",
    "targets",
    "options",
    "command_line",
    "plain_imports",
    "requirements",
    "probes",
    "agreement",
    "selftests",
    "expectations",
    "stories",
    "vmm",
    "ras",
    "guest",
    "gate",
    "reports",
    "hosts",
    "sim",
    "hosts.contract",
    "cpu",
    "uapi",
    "arm64",
    "platforms",
    "emulated",
    "firmware",
    "missing",
    "addresses",
)
"""Each may import itself and what comes after it."""

FORBIDDEN = {
    "agreement": {"sim"},
    "selftests": {"sim"},
    "vmm": {"sim"},
    "ras": {"sim"},
    "guest": {"sim"},
    "hosts": {"sim"},
    "cpu": {"uapi", "platforms"},
    "arm64": {"platforms"},
}
"""What the order alone would allow."""

FOR_TYPES = {("selftests", "fixtures")}
"""What is allowed to the type checker only: the selftests name the types of the fixtures that they are given."""

PYTEST_SIDE = ORDER[: ORDER.index("expectations") + 1]
"""What is part of the plugin; all below is a library that knows nothing of pytest."""

THIRD_PARTY = {"pytest": set(PYTEST_SIDE), "yaml": {"platforms", "agreement", "gate"}, "capstone": {"arm64"}}
"""Run-time dependencies, and who may use them."""

HEAVY = {"yaml", "capstone", "ctypes", "difflib", "xdist"}
"""What must not be loaded by a pytest run that has no test of ours."""


def modules() -> Iterator[tuple[str, ast.Module]]:
    """Every module of the package by its name inside the package, parsed."""
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
        yield name, ast.parse(path.read_text(encoding="utf-8"), str(path))


MODULES = dict(modules())


def imports(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and full name of everything that is imported, also inside functions and for the type checker."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            # `from package import module` names a module only together with what is imported.
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def for_the_type_checker(tree: ast.Module) -> set[int]:
    """The lines inside `if TYPE_CHECKING:`."""
    return {
        line
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for line in range(node.lineno, (node.body[-1].end_lineno or 0) + 1)
    }


def unit(module: str) -> str:
    """The room of the house that a module (without the package's name) is in."""
    return "hosts.contract" if module.startswith("hosts.contract") else module.partition(".")[0]


def test_every_module_has_its_place() -> None:
    assert {unit(name) for name in MODULES} - {"__init__"} <= set(ORDER)


def test_imports_point_down() -> None:
    wrong = []
    for module, tree in MODULES.items():
        here, typing_lines = unit(module), for_the_type_checker(tree)
        for line, name in imports(tree):
            package, _, rest = name.partition(".")
            there = unit(rest)
            if package != "pytest_kvm_sea" or there == here or ((here, there) in FOR_TYPES and line in typing_lines):
                continue
            if not may_import(here, there):
                wrong.append(f"{module}:{line}: {here} imports {name}")
    assert not wrong


def may_import(here: str, there: str) -> bool:
    return (
        {here, there} <= set(ORDER) and there in ORDER[ORDER.index(here) :] and there not in FORBIDDEN.get(here, set())
    )


def test_dependencies_stay_in_their_rooms() -> None:
    wrong = []
    for module, tree in MODULES.items():
        for line, name in imports(tree):
            package = name.partition(".")[0]
            ours = package == "pytest_kvm_sea" or package in sys.stdlib_module_names
            if not ours and unit(module) not in THIRD_PARTY.get(package, set()):
                wrong.append(f"{module}:{line}: {unit(module)} imports {name}")
    assert not wrong


def test_an_unrelated_run_loads_nothing_heavy() -> None:
    # What pytest loads by itself is not ours to answer for.
    script = (
        "import sys, pytest, _pytest.terminal; before = set(sys.modules)\n"
        "import pytest_kvm_sea.plugin, pytest_kvm_sea.fixtures\n"
        "print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    loaded = set(done.stdout.split())
    assert "pytest_kvm_sea.plugin" in loaded
    assert not {name for name in loaded if name.partition(".")[0] in HEAVY}
    assert {unit(name.removeprefix("pytest_kvm_sea.")) for name in loaded if name.startswith("pytest_kvm_sea.")} <= {
        "plugin",
        "command_line",
        "fixtures",
        "plain_imports",
    }


SKIPPED_DIRECTORIES = {"__pycache__", ".git", ".tox", ".venv", "build", "dist"}
SKIPPED_SUFFIXES = {".pyc", ".json", ".bin", ".elf"}
"""Files without a place for a comment."""


def files() -> Iterator[Path]:
    """The files of the checkout, but for those that tools leave behind (.gitignore)."""
    for path in sorted(ROOT.iterdir()):
        if path.is_file() and path.name != ".git":  # a file in a linked worktree
            yield path
    for name in ("pytest_kvm_sea", "tests", "fixtures", "docs", ".ci"):
        for path in sorted((ROOT / name).rglob("*")):
            if path.is_file() and not SKIPPED_DIRECTORIES & set(path.relative_to(ROOT).parts):
                yield path


def test_every_file_names_its_licence() -> None:
    without = [
        str(path.relative_to(ROOT))
        for path in files()
        if path.name != "LICENSE" and path.suffix not in SKIPPED_SUFFIXES and path.stat().st_size
        # The second line, where the first one names the interpreter.
        if "SPDX-License-Identifier: GPL-2.0-only" not in path.read_text(encoding="utf-8")[:120]
    ]
    assert not without


FOREIGN = re.compile(r"(?<![\w.$}>-])/(?:work|root|home|Users)/\w|/tmp/[a-z]|pythonhosted")
"""Paths of one machine, and hosts of registries."""


def test_no_file_names_a_machine() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in files()
        if path.suffix not in {".pyc", ".bin", ".elf"} and path != Path(__file__)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if FOREIGN.search(line)
    ]
    assert not wrong
