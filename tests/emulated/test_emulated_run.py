# SPDX-License-Identifier: GPL-2.0-only
"""A run from the command line to the exit code; a script plays QEMU and the guest, by init.sh's protocol."""

from __future__ import annotations

import io
import json
import os
import shlex
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from pytest_kvm_sea.emulated import cli, native, process, project, run
from pytest_kvm_sea.emulated.errors import EmulationError
from pytest_kvm_sea.emulated.image import Image, Recipe
from pytest_kvm_sea.emulated.machine import MachineConfig
from tests.emulated.emulated_fakes import program, read_cpio

INIT = Path(run.__file__).with_name("init.sh")
PLAYED = r"""
while [ $# -gt 0 ]; do
    case "$1" in
    -initrd) initrd=$2 ;;
    file,id=console,*) console=${1##*path=} ;;
    file,id=results,*) results=${1##*path=} ;;
    esac
    shift
done
say() { echo "[    1.0] kvm-sea: $1" >>"$console"; }
"""
"""QEMU: the paths among its arguments, and what the guest can write to its console."""
MACHINE = MachineConfig(kernel=Path("/k"), initrds=(b"the root",), extra_initrd=(b"a table",))
JOB = run.Job(command=("true",), timeout=10)


def tar(path: Path, files: Mapping[str, str]) -> Path:
    """A tar, as busybox makes it of the guest's directory of results."""
    with tarfile.open(path, "w") as archive:
        directory = tarfile.TarInfo(".")
        directory.type = tarfile.DIRTYPE
        archive.addfile(directory)
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    return path


def qemu(tmp_path: Path, script: str) -> list[str]:
    return [str(program(tmp_path / "bin", "qemu", PLAYED + script))]


def boot(tmp_path: Path, script: str, job: run.Job = JOB) -> tuple[int, bytes]:
    """Run with a QEMU that is this script. Exit code, and what was heard."""
    heard: list[bytes] = []
    code = run.run(MACHINE, job, qemu=qemu(tmp_path, script), output=tmp_path / "output", hear=heard.append)
    return code, b"".join(heard)


def test_a_run(tmp_path: Path) -> None:
    sent = tar(tmp_path / "sent.tar", {"./exit-code": "3\n", "./trace/one.json": "{}"})
    stale = tmp_path / "output/junit.xml"
    stale.parent.mkdir()
    stale.write_text("of a run before")
    script = f"say ready; echo said; cp {sent} $results; cp $initrd {tmp_path}/seen; say done"
    assert boot(tmp_path, script) == (3, b"said\n")
    output = tmp_path / "output"
    assert sorted(path.name for path in output.iterdir()) == ["console.log", "exit-code", "pytest.log", "trace"]
    assert (output / "trace/one.json").read_text() == "{}"
    assert (output / "pytest.log").read_text() == "said\n"
    assert (tmp_path / "seen").read_bytes().startswith(b"a table\0the root")


@pytest.mark.parametrize(
    ("script", "message", "details"),
    [
        ("echo 'no such device' >&2; exit 1", "QEMU ended with 1", "no such device"),
        ("echo 'Kernel panic - not syncing' >>$console", "the kernel did not boot", "Kernel panic"),
        ("true", "the kernel did not boot", "(nothing)"),
        ("say 'the kernel has no virtio-serial ports'", "CONFIG_VIRTIO_CONSOLE=y", "virtio-serial"),
        ("say 'the kernel has no /dev/kvm'; say ready; say done", "CONFIG_KVM=y", "/dev/kvm"),
        ("say ready; echo Oops >>$console", "died before the tests were done", "Oops"),
        ("say ready; say done", "the results of the machine cannot be read", ""),
        ("say ready; say done; echo rubbish >$results", "the results of the machine cannot be read", ""),
    ],
)
def test_what_goes_wrong(tmp_path: Path, script: str, message: str, details: str) -> None:
    with pytest.raises(EmulationError) as caught:
        boot(tmp_path, script)
    assert message in str(caught.value)
    assert details in caught.value.details
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("said", "timeout", "message"),
    [("", 10, "did not boot within 0.2 s"), ("ready", 0.3, "not done within 0.3 s (--timeout)")],
)
def test_time_is_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, timeout: float, message: str) -> None:
    monkeypatch.setattr(run, "BOOT_TIMEOUT", 0.2)
    begin = time.monotonic()
    with pytest.raises(EmulationError) as caught:
        boot(tmp_path, f"echo $$ >{tmp_path}/pid; say '{said}'; exec sleep 60", run.Job(command=(), timeout=timeout))
    assert message in str(caught.value)
    assert time.monotonic() - begin < 30
    assert is_gone(int((tmp_path / "pid").read_text()))


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_an_interrupt_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(_data: bytes) -> None:
        raise AssertionError

    running = process.Qemu(["sleep", "60"], tmp_path / "console", interrupt)
    for started in (False, True):
        with pytest.raises(KeyboardInterrupt):
            interrupted(running, started=started)
    assert is_gone(running.pid)


def interrupted(running: process.Qemu, *, started: bool) -> None:
    with running:
        if started:
            running.start()
        raise KeyboardInterrupt


def test_no_such_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_dies_with_us", list)
    with (
        pytest.raises(EmulationError, match="/nope cannot be started: No such file"),
        process.Qemu(["/nope"], tmp_path / "console", print) as running,
    ):
        running.start()


def test_interrupted_tests(tmp_path: Path) -> None:
    sent = tar(tmp_path / "sent.tar", {"./exit-code": "2\n", "./timed-out": "580", "./junit.xml": "<testsuites/>"})
    with pytest.raises(EmulationError, match="were not done in time and were interrupted"):
        boot(tmp_path, f"say ready; cp {sent} $results; say done")
    assert (tmp_path / "output/junit.xml").read_text() == "<testsuites/>"


@pytest.mark.parametrize("name", ["../outside", "/outside", "a/../../outside"])
def test_the_guest_is_not_trusted(tmp_path: Path, name: str) -> None:
    output = tmp_path / "output"
    output.mkdir()
    tar(output / run.RESULTS, {"./exit-code": "0", name: "x"})
    with pytest.raises(EmulationError, match="outside of its results"):
        run.collect(output)
    assert not (tmp_path / "outside").exists()


def test_links_and_devices_of_the_guest_are_left_there(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / run.RESULTS, "w") as archive:
        for name, kind in (("link", tarfile.SYMTYPE), ("fifo", tarfile.FIFOTYPE), ("node", tarfile.CHRTYPE)):
            member = tarfile.TarInfo(name)
            member.type = kind
            member.linkname = "/etc/passwd"
            archive.addfile(member)
        code = tarfile.TarInfo("exit-code")
        code.size = 1
        archive.addfile(code, io.BytesIO(b"0"))
    assert run.collect(tmp_path) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["exit-code"]


def test_beside(tmp_path: Path) -> None:
    told: list[str] = []

    @contextmanager
    def firmware(machine: MachineConfig) -> Iterator[None]:
        told.append(f"before {machine.kernel} {(tmp_path / 'started').exists()}")
        yield
        told.append(f"after {(tmp_path / 'started').exists()}")

    sent = tar(tmp_path / "sent.tar", {"exit-code": "0"})
    script = f"touch {tmp_path}/started; say ready; cp {sent} $results; say done"
    run.run(
        MACHINE, JOB, qemu=qemu(tmp_path, script), output=tmp_path / "output", hear=lambda _data: None, beside=firmware
    )
    assert told == ["before /k False", "after True"]


# What the guest gets


def test_the_job(tmp_path: Path) -> None:
    (tmp_path / "mine/data").mkdir(parents=True)
    (tmp_path / "mine/data/x").write_text("1")
    (tmp_path / "test_mine.py").write_text("2")
    job = run.Job(command=("pytest",), copies=(tmp_path / "mine", tmp_path / "test_mine.py"))
    members = {member.name: member.data for member in read_cpio(run.job_archive(job))}
    assert members["init"] == INIT.read_bytes()
    assert members["tests/mine/data/x"] == b"1"
    assert members["tests/test_mine.py"] == b"2"
    assert {"kvm-sea/settings", "kvm-sea/command"} < set(members)
    with pytest.raises(EmulationError, match="no such file or directory to copy"):
        run.job_archive(run.Job(command=(), copies=(tmp_path / "nothing",)))


def shell(script: str, directory: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False, cwd=directory)


def test_the_command_is_what_was_given(tmp_path: Path) -> None:
    words = ("", "two words", "it's", '"', "$HOME", "`id`", "*", "a\nb", "-k", "x and not y")
    command = (sys.executable, "-c", "import os, sys; print(sys.argv[1:], os.environ['ODD']); sys.exit(5)", *words)
    done = shell(run.script(run.Job(command=command, environment={"ODD": "$a 'b'"}, timeout=60)), tmp_path)
    assert done.stdout == f"{list(words)} $a 'b'\n"
    assert done.returncode == 5


def test_a_command_that_takes_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "OUTPUT", str(tmp_path))
    shell(run.script(run.Job(command=("sleep", "60"), timeout=2)), tmp_path)
    assert (tmp_path / run.TIMED_OUT).read_text() == "1\n"


def test_settings_are_shell() -> None:
    script = run.settings(1234.5, interactive=True) + 'echo "$KVM_SEA_NOW $KVM_SEA_INTERACTIVE"'
    assert shell(script, Path("/")).stdout == "1234 1\n"


def test_init_and_this_side_use_the_same_words() -> None:
    script = INIT.read_text()
    assert shell(f"sh -n {shlex.quote(str(INIT))}", Path("/")).returncode == 0
    for word in (process.READY, process.DONE, process.NO_KVM, process.NO_PORTS, run.OUTPUT, run.EXIT_CODE, run.DMESG):
        assert word in script
    assert f"cd {run.WORK} " in script
    for port in ("kvm-sea.talk", "kvm-sea.results"):
        assert f"port {port}" in script
        assert any(word.endswith(f"name={port}") for word in words())


def words() -> list[str]:
    return MACHINE.command(["qemu"], initrd=Path("/i"), console=Path("/c"), results=Path("/r"))


@pytest.mark.parametrize(
    ("arguments", "report"),
    [(["-k", "x"], True), (["--junit-xml=/output/mine.xml"], False), (["--junitxml", "/output/x"], False)],
)
def test_a_report_unless_there_is_one(arguments: list[str], report: bool) -> None:
    command = run.pytest_command(arguments)
    assert ("--junit-xml=/output/junit.xml" in command) == report
    assert command[-len(arguments) :] == tuple(arguments)


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ([], []),
        ([str(number) for number in range(50)], [str(number) for number in range(42, 50)]),
        (["a"] * 20 + ["Internal error: Oops"] + ["b"] * 50, ["a"] * 8 + ["Internal error: Oops"] + ["b"] * 11),
    ],
)
def test_the_telling_part_of_a_console(lines: list[str], told: list[str]) -> None:
    assert process.telling(lines) == told


# The command line


@pytest.fixture
def command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`main` with an image that is there already, and a QEMU that is played. The file for the script of QEMU."""
    image = tmp_path / "image"
    image.mkdir()
    for name in ("vmlinuz", "root.cpio", "modules.cpio", "QEMU_EFI.fd"):
        (image / name).write_bytes(name.encode())
    (image / "versions.json").write_text('{"linux": "7.3.4+deb13-arm64", "pytest": "9.2.0"}')

    def built(_recipe: Recipe, _cache: object, _log: object, *, refresh: bool) -> Image:
        assert not refresh
        return Image(image)

    monkeypatch.setattr(cli, "image", built)
    monkeypatch.setattr(project, "overlay", lambda _contents, _cache, _log: image / "root.cpio")
    monkeypatch.setattr(native, "qemu", lambda _cache, _log: qemu(tmp_path, f". {tmp_path}/script"))
    monkeypatch.setattr(cli, "_on_signals", lambda: None)
    monkeypatch.setenv("KVM_SEA_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(cli.KERNEL_VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "script"


def test_main(command_line: Path, capfd: pytest.CaptureFixture[str]) -> None:
    sent = tar(command_line.with_name("sent.tar"), {"exit-code": "1"})
    command_line.write_text(f"cp $initrd {sent}.initrd; say ready; echo 1 failed; cp {sent} $results; say done")
    assert cli.main(["--output", "here", "--", "-k", "some thing"]) == 1
    out, error = capfd.readouterr()
    assert out == "1 failed\n"
    assert error.splitlines()[0].startswith("kvm-sea: Linux 7.3.4+deb13-arm64, pytest 9.2.0, QEMU")
    assert "exit code 1" in error.splitlines()[-1]
    assert b"-p no:cacheprovider --junit-xml=/output/junit.xml -k 'some thing'" in Path(f"{sent}.initrd").read_bytes()
    assert (command_line.parent / "here/console.log").exists()
    about = json.loads((command_line.parent / "here/about.json").read_text())
    assert about == {
        "linux": "7.3.4+deb13-arm64",
        "pytest": "9.2.0",
        "kernel": "Linux 7.3.4+deb13-arm64",
        "QEMU": "0",
        "cpu": "max,pauth-impdef=on",
    }


def test_main_without_arguments_runs_the_selftests(command_line: Path) -> None:
    sent = tar(command_line.with_name("sent.tar"), {"exit-code": "0"})
    command_line.write_text(f"cp $initrd {sent}.initrd; say ready; cp {sent} $results; say done")
    assert cli.main([]) == 0
    seen = Path(f"{sent}.initrd").read_bytes()
    assert b"--pyargs pytest_kvm_sea.selftests --kvm-sea-host=linux" in seen
    assert b"modules.cpio" in seen


def test_main_says_in_one_line_what_went_wrong(command_line: Path, capfd: pytest.CaptureFixture[str]) -> None:
    command_line.write_text("say ready; echo Oops >>$console")
    assert cli.main([]) == cli.FAILED
    lines = capfd.readouterr().err.splitlines()
    assert lines[1] == "kvm-sea: error: the machine died before the tests were done"
    assert lines[-1] == "    Oops"


@pytest.mark.parametrize("by", ["option", "variable"])
def test_a_kernel_of_the_users_own(
    command_line: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], by: str
) -> None:
    kernel = command_line.with_name("Image")
    kernel.write_bytes(b"\x1f\x8b" + b"k" * 80)
    if by == "variable":
        monkeypatch.setenv(cli.KERNEL_VARIABLE, str(kernel))
    arguments = ["--kernel", "Image"] if by == "option" else []
    assert cli.main([*arguments, "--print-command", "--append", "x=1", "--append", "y", "--qemu-arg=-s"]) == 0
    command = shlex.split(capfd.readouterr().out)
    assert command[command.index("-kernel") + 1] == str(kernel)
    assert command[command.index("-append") + 1].endswith(" x=1 y")
    assert command[-1] == "-s"
    # Modules are of the image's kernel.
    sent = tar(command_line.with_name("sent.tar"), {"exit-code": "0"})
    command_line.write_text(f"cp $initrd {sent}.initrd; say ready; cp {sent} $results; say done")
    assert cli.main(arguments) == 0
    assert b"modules.cpio" not in Path(f"{sent}.initrd").read_bytes()


def test_pytests_options_come_after_two_dashes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["-k", "some"])
    assert caught.value.code == 2
    assert "unrecognized arguments: -k some; arguments for pytest come after --" in capsys.readouterr().err


def test_a_signal_ends_the_machine(tmp_path: Path) -> None:
    """As a real process: SIGTERM to the command, and QEMU is gone too."""
    script = qemu(tmp_path, f"echo $$ >{tmp_path}/pid; exec sleep 60")
    code = (
        "import sys; from pathlib import Path; from pytest_kvm_sea.emulated import cli, run\n"
        "from pytest_kvm_sea.emulated.machine import MachineConfig\n"
        "cli._on_signals()\n"
        "machine = MachineConfig(kernel=Path('/k'), initrds=())\n"
        f"run.run(machine, run.Job(command=()), qemu={script!r}, output=Path({str(tmp_path)!r}), hear=print)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE) as ours:
        pid = tmp_path / "pid"
        while not pid.exists() or not pid.read_text():
            assert ours.poll() is None
            time.sleep(0.01)
        ours.terminate()
        _out, error = ours.communicate(timeout=30)
    assert b"KeyboardInterrupt" in error
    # Where the signal came in the middle of the start, the kernel ends QEMU, a moment after its parent.
    deadline = time.monotonic() + 10
    while not is_gone(int(pid.read_text())):
        assert time.monotonic() < deadline
        time.sleep(0.01)
