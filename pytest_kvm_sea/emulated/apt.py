# SPDX-License-Identifier: GPL-2.0-only
"""Packages of another release and architecture, by apt, without touching what apt keeps about this machine.

The mirror, proxies and keys are those that this machine is configured with; lists, downloads and the (empty) list of
installed packages lie in a directory of ours.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pytest_kvm_sea.emulated.errors import EmulationError

MIRROR_VARIABLE = "KVM_SEA_MIRROR"
KEYRINGS = (
    Path("/usr/share/keyrings/debian-archive-keyring.gpg"),
    Path("/usr/share/keyrings/debian-archive-keyring.pgp"),
)
"""Where the package debian-archive-keyring has the keys; else apt's own trusted.gpg.d has to do."""
DEBIAN_RELEASES = frozenset(
    {"bullseye", "bookworm", "trixie", "forky", "duke", "sid", "oldoldstable", "oldstable", "stable", "testing"}
    | {"unstable"}
)
_RELEASE_FILE = re.compile(r"^'(?!cdrom:)(.+)/dists/([^/']+)/InRelease' ", re.MULTILINE)
_URI = re.compile(r"^'([^']+)' (\S+) (\d+) ")
_CONFIGURATION = """\
#clear APT::Update;
#clear APT::Architectures;
#clear DPkg;
APT::Architecture "{architecture}";
APT::Architectures {{ "{architecture}"; }};
APT::Sandbox::User "";
APT::Get::List-Cleanup "false";
Acquire::Languages "none";
Acquire::Retries "3";
Dir::Etc::SourceList "{directory}/sources.list";
Dir::Etc::SourceParts "-";
Dir::Etc::Preferences "-";
Dir::Etc::PreferencesParts "-";
Dir::State "{directory}/state";
Dir::State::Lists "{directory}/lists";
Dir::State::Status "{directory}/status";
Dir::Cache "{directory}/cache";
"""
"""Hooks of the machine are cleared: they speak of the machine's packages. Only -c is read after all other files."""


@dataclass(frozen=True, slots=True)
class Release:
    """What to take packages from."""

    uri: str
    suites: tuple[str, ...]
    components: tuple[str, ...] = ("main",)


def mirror(chosen: str | None = None) -> str:
    """The Debian mirror: the chosen one, or the first that this machine's apt has a Debian release from."""
    if chosen := chosen or os.environ.get(MIRROR_VARIABLE):
        return chosen
    _need("apt-get")
    # What apt-get would fetch: as sources.list, .sources and mirror lists say, also where nothing was fetched yet.
    printed = _run(["apt-get", "update", "--print-uris"], "the look at this machine's apt sources")
    found = _RELEASE_FILE.findall(printed)
    for uri, release in found:
        if release in DEBIAN_RELEASES:
            return str(uri)
    sources = ", ".join(sorted({uri for uri, _release in found})) or "none at all"
    raise EmulationError(
        f"apt's sources on this machine name no Debian mirror (found: {sources}); "
        f"give one: --mirror URI or {MIRROR_VARIABLE}=URI"
    )


class Apt:
    """apt for one architecture, in a directory of its own."""

    def __init__(self, directory: Path, architecture: str, release: Release) -> None:
        self._directory = directory
        self.architecture = architecture
        self._release = release
        self._updated = False

    def update(self) -> None:
        """Fetch the lists of packages, once."""
        if self._updated:
            return
        _need("apt-get")
        for part in ("lists/partial", "cache/archives/partial", "nothing/partial", "state"):
            (self._directory / part).mkdir(parents=True, exist_ok=True)
        (self._directory / "status").touch()
        (self._directory / "sources.list").write_text(sources(self._release, self.architecture), encoding="utf-8")
        self._configuration.write_text(
            _CONFIGURATION.format(architecture=self.architecture, directory=self._directory), encoding="utf-8"
        )
        what = f"lists of packages for {self.architecture}, {', '.join(self._release.suites)}"
        self._get(f"the download of the {what}", "update", "--error-on=any")
        self._updated = True

    def names(self, prefix: str) -> list[str]:
        """The packages whose names begin so."""
        self.update()
        return self._tool("apt-cache", "the search for packages", "pkgnames", prefix).split()

    def with_dependencies(self, *packages: str) -> list[Path]:
        """Download packages and all that they depend on, as on a machine that has nothing. The .deb files."""
        return self._download("install", "--assume-yes", "--no-install-recommends", *packages, last="--download-only")

    def alone(self, *packages: str) -> list[Path]:
        """Download packages without what they depend on. The .deb files, in the order of the packages."""
        downloaded = self._download("download", *packages)
        return sorted(downloaded, key=lambda path: packages.index(path.name.partition("_")[0]))

    def _download(self, *arguments: str, last: str = "--quiet=2") -> list[Path]:
        self.update()
        wanted = " ".join(argument for argument in arguments[1:] if not argument.startswith("-"))
        # What is in the cache is not printed, hence one that is empty.
        uris = ("--print-uris", "--option", f"Dir::Cache::Archives={self._directory}/nothing")
        printed = self._get(f"the choice of the packages {wanted}", *arguments, *uris)
        names = [found[2] for line in printed.splitlines() if (found := _URI.match(line))]
        self._get(f"the download of the packages {wanted}", *arguments, last, cwd=self._archives)
        if not names:
            raise EmulationError(f"apt chose nothing for {wanted}", printed)
        paths = [self._archives / name for name in names]
        if missing := [path.name for path in paths if not path.exists()]:
            raise EmulationError(f"apt downloaded {wanted}, but left no {', '.join(missing)} in {self._archives}")
        return paths

    @property
    def _archives(self) -> Path:
        return self._directory / "cache/archives"

    @property
    def _configuration(self) -> Path:
        return self._directory / "apt.conf"

    def _get(self, what: str, *arguments: str, cwd: Path | None = None) -> str:
        return self._tool("apt-get", what, "--quiet=2", *arguments, cwd=cwd)

    def _tool(self, tool: str, what: str, *arguments: str, cwd: Path | None = None) -> str:
        return _run([tool, f"--config-file={self._configuration}", *arguments], what, cwd=cwd)


def sources(release: Release, architecture: str, keyrings: Iterable[Path] = KEYRINGS) -> str:
    """The text of a sources.list. Signatures are always checked."""
    keyring = next((path for path in keyrings if path.exists()), None)
    options = f"arch={architecture}" + (f" signed-by={keyring}" if keyring else "")
    components = " ".join(release.components)
    return "".join(f"deb [{options}] {release.uri} {suite} {components}\n" for suite in release.suites)


def unpack(package: Path, destination: Path, wanted: Callable[[str], bool] = lambda _name: True) -> None:
    """The files of a .deb whose names (``usr/bin/busybox``) are wanted, below a directory."""
    _need("dpkg-deb")
    with subprocess.Popen(  # noqa: S603 - no shell, and our own arguments
        ["dpkg-deb", "--fsys-tarfile", str(package)],  # noqa: S607 - from PATH, as dpkg-deb is everywhere
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            with tarfile.open(fileobj=process.stdout, mode="r|") as archive:
                _place_all(archive, destination, wanted)
        except tarfile.TarError as error:
            broken = str(error)
        else:
            broken = ""
        complaint = process.stderr.read().decode(errors="replace")
    if broken or process.returncode:
        raise EmulationError(f"dpkg-deb could not read {package.name}; delete it and try again", complaint or broken)


def _place_all(archive: tarfile.TarFile, destination: Path, wanted: Callable[[str], bool]) -> None:
    for member in archive:
        name = member.name.removeprefix("./")
        if name and wanted(name):
            _place(archive, member, destination, name)


def _place(archive: tarfile.TarFile, member: tarfile.TarInfo, destination: Path, name: str) -> None:
    """Put one member in its place; owners and times do not matter to an initramfs."""
    target = destination / name
    if ".." in target.parts:
        raise EmulationError(f"a package holds {name!r}, which lies outside of its own tree")
    if member.isdir():
        target.mkdir(parents=True, exist_ok=True)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    if member.issym():
        target.symlink_to(member.linkname)
    elif member.islnk():
        target.hardlink_to(destination / member.linkname.removeprefix("./"))
    elif (data := archive.extractfile(member)) is not None:
        with target.open("wb") as file:
            shutil.copyfileobj(data, file)
        target.chmod(member.mode & 0o777 | 0o600)


def native_architecture() -> str:
    """This machine's, in Debian's words: ``amd64``."""
    _need("dpkg")
    return _run(["dpkg", "--print-architecture"], "dpkg --print-architecture").strip()


def _need(tool: str) -> None:
    if shutil.which(tool) is None:
        raise EmulationError(f"{tool} is not on this machine; the arm64 host is built from packages, so run on Debian")


def _run(command: Sequence[str], what: str, *, cwd: Path | None = None) -> str:
    environment = os.environ | {"LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env=environment)  # noqa: S603
    if done.returncode:
        complaint = "\n".join(line for line in done.stderr.splitlines() if line.startswith(("E:", "Err", "W:")))
        raise EmulationError(f"{what} failed: {command[0]} ended with {done.returncode}", complaint or done.stderr)
    return done.stdout
