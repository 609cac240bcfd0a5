# SPDX-License-Identifier: GPL-2.0-only
"""apt in a directory of its own: the mirror, what is asked of apt, what comes of its failures. apt itself is played."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from pytest_kvm_sea.emulated import apt
from pytest_kvm_sea.emulated.errors import EmulationError
from tests.emulated.emulated_fakes import program

PRINTED = """\
'cdrom://disc/dists/bookworm/InRelease' disc_dists_bookworm_InRelease 0
'http://mirror.example/ubuntu/dists/noble/InRelease' mirror.example_ubuntu_dists_noble_InRelease 0
'http://mirror.example/debian-security/dists/bookworm-security/InRelease' x 0
'http://mirror.example/debian/dists/bookworm-updates/InRelease' x 0
'mirror+file:/etc/apt/mirrors/debian.list/dists/bookworm/InRelease' x 0
'http://far.example/debian/dists/sid/InRelease' x 0
'http://mirror.example/ubuntu/dists/noble/main/binary-amd64/Packages.xz' x 0
"""


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of programs before all others."""
    directory = tmp_path / "tools"
    directory.mkdir()
    monkeypatch.setenv("PATH", str(directory), prepend=os.pathsep)
    monkeypatch.delenv(apt.MIRROR_VARIABLE, raising=False)
    return directory


def an_apt(tmp_path: Path) -> apt.Apt:
    return apt.Apt(tmp_path / "apt", "arm64", apt.Release("http://near.example/debian", ("trixie", "trixie-backports")))


def test_mirror_of_the_first_debian_release(tools: Path) -> None:
    program(tools, "apt-get", f"cat <<'END'\n{PRINTED}END")
    assert apt.mirror() == "mirror+file:/etc/apt/mirrors/debian.list"


def test_mirror_chosen(tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tools, "apt-get", "exit 1")
    assert apt.mirror("file:///srv/debian") == "file:///srv/debian"
    monkeypatch.setenv(apt.MIRROR_VARIABLE, "http://other.example")
    assert apt.mirror() == "http://other.example"


@pytest.mark.parametrize(
    ("listed", "names"),
    [("noble", "(found: http://mirror.example/linux)"), ("", "(found: none")],
)
def test_no_mirror(tools: Path, listed: str, names: str) -> None:
    line = f"'http://mirror.example/linux/dists/{listed}/InRelease' x 0"
    program(tools, "apt-get", f'echo "{line}"' if listed else "true")
    with pytest.raises(EmulationError, match=r"name no Debian mirror .* --mirror URI or KVM_SEA_MIRROR=URI") as caught:
        apt.mirror()
    assert names in str(caught.value)


def test_no_apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv(apt.MIRROR_VARIABLE, raising=False)
    for action in (apt.mirror, apt.native_architecture, an_apt(tmp_path).update):
        with pytest.raises(EmulationError, match="is not on this machine"):
            action()


def test_sources_are_signed(tmp_path: Path) -> None:
    release = apt.Release("http://near.example/debian", ("trixie", "trixie-backports"))
    keyring = tmp_path / "keys.gpg"
    assert apt.sources(release, "arm64", [keyring]).splitlines() == [
        "deb [arch=arm64] http://near.example/debian trixie main",
        "deb [arch=arm64] http://near.example/debian trixie-backports main",
    ]
    keyring.touch()
    assert f"[arch=arm64 signed-by={keyring}]" in apt.sources(release, "arm64", [tmp_path / "none", keyring])


PLAYED = r"""
printf '%s\n' "$*" >>"$LOG"
case " $* " in
*" --print-uris "*)
    echo 'Reading package lists...'
    echo "'http://near.example/debian/pool/a_1%3a2_arm64.deb' a_1%3a2_arm64.deb 5 SHA256:0"
    echo "'http://near.example/debian/pool/b_3_all.deb' b_3_all.deb 5 SHA256:0"
    ;;
*" --download-only "*|*" download "*)
    mkdir -p "$ARCHIVES" && touch "$ARCHIVES/a_1%3a2_arm64.deb" "$ARCHIVES/b_3_all.deb"
    ;;
esac
"""


def test_downloads(tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archives, log = tmp_path / "apt/cache/archives", tmp_path / "log"
    monkeypatch.setenv("LOG", str(log))
    monkeypatch.setenv("ARCHIVES", str(archives))
    program(tools, "apt-get", PLAYED)
    ours = an_apt(tmp_path)
    a, b = archives / "a_1%3a2_arm64.deb", archives / "b_3_all.deb"
    assert ours.with_dependencies("a") == [a, b]
    assert ours.alone("b", "a") == [b, a]
    lines = log.read_text().splitlines()
    assert all(line.startswith(f"--config-file={tmp_path}/apt/apt.conf --quiet=2 ") for line in lines)
    assert sum(" update " in f"{line} " for line in lines) == 1
    configuration = (tmp_path / "apt/apt.conf").read_text()
    for setting in ("SourceList", "Lists", "Status", "Cache"):
        assert f'{setting} "{tmp_path}/apt/' in configuration
    assert 'APT::Architectures { "arm64"; };' in configuration


def test_a_download_that_leaves_nothing(tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOG", str(tmp_path / "log"))
    monkeypatch.setenv("ARCHIVES", str(tmp_path / "elsewhere"))
    program(tools, "apt-get", PLAYED)
    with pytest.raises(EmulationError, match=r"left no a_1%3a2_arm64\.deb, b_3_all\.deb in"):
        an_apt(tmp_path).with_dependencies("a")


def test_a_choice_of_nothing(tools: Path, tmp_path: Path) -> None:
    program(tools, "apt-get", "true")
    with pytest.raises(EmulationError, match="apt chose nothing for a"):
        an_apt(tmp_path).with_dependencies("a")


def test_a_failure_says_what_apt_says(tools: Path, tmp_path: Path) -> None:
    program(tools, "apt-get", "echo noise >&2; echo 'E: Failed to fetch http://near.example/x' >&2; exit 100")
    with pytest.raises(EmulationError, match="lists of packages for arm64, trixie, trixie-backports failed") as caught:
        an_apt(tmp_path).update()
    assert caught.value.details == "E: Failed to fetch http://near.example/x"


def archive(*members: tuple[str, bytes, str]) -> bytes:
    """A tar of (name, type, content or target)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, kind, content in members:
            info = tarfile.TarInfo(name)
            info.type = kind
            info.mode = 0o4755
            if kind in {tarfile.SYMTYPE, tarfile.LNKTYPE}:
                info.linkname = content
            info.size = len(content) if kind == tarfile.REGTYPE else 0
            tar.addfile(info, io.BytesIO(content.encode()))
    return out.getvalue()


def test_unpack(tools: Path, tmp_path: Path) -> None:
    program(tools, "dpkg-deb", '[ "$1" = --fsys-tarfile ] && cat "$2"')
    package, tree = tmp_path / "a.deb", tmp_path / "tree"
    package.write_bytes(
        archive(
            ("./", tarfile.DIRTYPE, ""),
            ("./usr/bin/", tarfile.DIRTYPE, ""),
            ("./usr/bin/a", tarfile.REGTYPE, "text"),
            ("./usr/bin/b", tarfile.SYMTYPE, "/usr/bin/a"),
            ("./usr/bin/c", tarfile.LNKTYPE, "./usr/bin/a"),
            ("./usr/share/doc/a", tarfile.REGTYPE, "read me"),
        )
    )
    for _twice in range(2):
        apt.unpack(package, tree, lambda name: not name.startswith("usr/share"))
    assert sorted(str(path.relative_to(tree)) for path in tree.rglob("*")) == [
        "usr",
        "usr/bin",
        "usr/bin/a",
        "usr/bin/b",
        "usr/bin/c",
    ]
    assert str((tree / "usr/bin/b").readlink()) == "/usr/bin/a"
    assert (tree / "usr/bin/c").read_text() == "text"
    assert (tree / "usr/bin/a").stat().st_mode & 0o7777 == 0o755


def test_unpack_stays_inside(tools: Path, tmp_path: Path) -> None:
    program(tools, "dpkg-deb", 'cat "$2"')
    (tmp_path / "a.deb").write_bytes(archive(("./../outside", tarfile.REGTYPE, "x")))
    with pytest.raises(EmulationError, match="outside of its own tree"):
        apt.unpack(tmp_path / "a.deb", tmp_path / "tree")
    assert not (tmp_path / "outside").exists()


def test_unpack_of_rubbish(tools: Path, tmp_path: Path) -> None:
    program(tools, "dpkg-deb", "echo 'not a Debian archive' >&2; exit 2")
    (tmp_path / "a.deb").touch()
    with pytest.raises(EmulationError, match=r"could not read a\.deb; delete it") as caught:
        apt.unpack(tmp_path / "a.deb", tmp_path / "tree")
    assert "not a Debian archive" in caught.value.details
