# SPDX-License-Identifier: GPL-2.0-only
"""Archives for the initramfs, read back as the kernel reads them."""

from __future__ import annotations

import io
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_kvm_sea.emulated.cpio import Cpio
from tests.emulated.emulated_fakes import read_cpio

NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=40).filter(
    lambda name: name != "TRAILER!!!"
)


@given(st.dictionaries(NAMES, st.binary(max_size=40), max_size=5))
def test_files_come_back(files: dict[str, bytes]) -> None:
    out = io.BytesIO()
    archive = Cpio(out)
    for name, data in files.items():
        archive.file(name, data)
    archive.close()
    assert out.tell() % 4 == 0  # another one may follow
    assert {member.name: member.data for member in read_cpio(out.getvalue())} == files


def test_the_end_is_no_name() -> None:
    with pytest.raises(ValueError, match="that is the end of an archive"):
        Cpio(io.BytesIO()).file("TRAILER!!!", b"")


def test_every_kind() -> None:
    out = io.BytesIO()
    archive = Cpio(out)
    archive.directory("dev")
    archive.character_device("dev/console", 5, 1)
    archive.link("bin", "usr/bin")
    archive.file("init", b"#!", executable=True)
    archive.close()
    found = {member.name: (member.kind, member.mode & 0o777, member.data) for member in read_cpio(out.getvalue())}
    assert found == {
        "dev": (stat.S_IFDIR, 0o755, b""),
        "dev/console": (stat.S_IFCHR, 0o600, b""),
        "bin": (stat.S_IFLNK, 0o777, b"usr/bin"),
        "init": (stat.S_IFREG, 0o755, b"#!"),
    }
    assert next(member.device for member in read_cpio(out.getvalue()) if member.name == "dev/console") == (5, 1)


def test_parents_come_from_above() -> None:
    out = io.BytesIO()
    Cpio(out).parents("kernel/firmware/acpi/EINJ.aml")
    assert [member.name for member in read_cpio(out.getvalue())] == [
        "kernel",
        "kernel/firmware",
        "kernel/firmware/acpi",
    ]


def test_a_tree(tmp_path: Path) -> None:
    (tmp_path / "b/c").mkdir(parents=True)
    (tmp_path / "b/c/run").write_bytes(b"1")
    (tmp_path / "b/c/run").chmod(0o755)
    (tmp_path / "b/data").write_bytes(b"22")
    (tmp_path / "b/to-file").symlink_to("data")
    (tmp_path / "b/to-directory").symlink_to("c")
    (tmp_path / "b/to-nothing").symlink_to("/usr/lib/x")
    out = io.BytesIO()
    Cpio(out).tree(tmp_path, "below")
    members = read_cpio(out.getvalue())
    assert [(member.name, oct(member.mode), member.data) for member in members] == [
        ("below", "0o40755", b""),
        ("below/b", "0o40755", b""),
        ("below/b/data", "0o100644", b"22"),
        ("below/b/to-directory", "0o120777", b"c"),
        ("below/b/to-file", "0o120777", b"data"),
        ("below/b/to-nothing", "0o120777", b"/usr/lib/x"),
        ("below/b/c", "0o40755", b""),
        ("below/b/c/run", "0o100755", b"1"),
    ]


def test_equal_trees_give_equal_archives(tmp_path: Path) -> None:
    archives = []
    for order in ("ab", "ba"):
        for name in order:
            (tmp_path / order).mkdir(exist_ok=True)
            (tmp_path / order / name).write_text(name)
        out = io.BytesIO()
        Cpio(out).tree(tmp_path / order)
        archives.append(out.getvalue())
    assert archives[0] == archives[1]
