# SPDX-License-Identifier: GPL-2.0-only
"""Put the collection kvm_sea into an installed tree of kselftests."""

from __future__ import annotations

from pathlib import Path

COLLECTION = "kvm_sea"
SCRIPT = "pytest_kvm_sea.sh"
SETTINGS = "settings"
RUNNER = "run_kselftest.sh"
LIST = "kselftest-list.txt"
ENTRY = f"{COLLECTION}:{SCRIPT}"


class InstallError(Exception):
    """Why nothing was installed. A text for people."""


def install(tree: Path) -> list[Path]:
    """The files that are in the tree now. Raises InstallError."""
    if not (tree / RUNNER).is_file():
        raise InstallError(
            f"{tree}: no installed tree of kselftests, there is no {RUNNER} in it; make one in a kernel's source: "
            f"make -C tools/testing/selftests TARGETS=kvm INSTALL_PATH={tree} install"
        )
    directory = tree / COLLECTION
    try:
        directory.mkdir(exist_ok=True)
        files = [_copy(SCRIPT, directory, 0o755), _copy(SETTINGS, directory, 0o644)]
        return [*files, _list(tree / LIST)]
    except OSError as error:
        raise InstallError(f"{error.filename or tree}: cannot be written: {error.strerror}") from None


def _copy(name: str, directory: Path, mode: int) -> Path:
    target = directory / name
    target.write_bytes(Path(__file__).with_name(name).read_bytes())
    target.chmod(mode)
    return target


def _list(path: Path) -> Path:
    """Name the test to the runner, once."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    if ENTRY not in lines:
        path.write_text("\n".join([*lines, ENTRY, ""]), encoding="utf-8")
    return path
