# SPDX-License-Identifier: GPL-2.0-only
"""What compilers make of guests in C: it prints what it prints as a process of Linux, and mistakes do not compile.

Ordinarily a sample, by the first compiler that is here; with KVM_SEA_TEST_C_GUESTS=all every program by every compiler
at every level of optimisation (tox run -e cguests).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_kvm_sea.guest import cc
from pytest_kvm_sea.guest.cc import build_flags, compile_guest, compilers, include_dir
from pytest_kvm_sea.guest.errors import GuestBuildError, GuestElfError
from pytest_kvm_sea.guest.program import GuestProgram
from pytest_kvm_sea.platforms.loader import load_platform
from pytest_kvm_sea.sim.host import SimHost
from pytest_kvm_sea.vmm.errors import GuestFailure, UnhandledException
from pytest_kvm_sea.vmm.vm import Vm

PROGRAMS = Path(__file__).parents[2] / "fixtures/guests/programs"
PRINTED: dict[str, list[str]] = json.loads((PROGRAMS / "printed.json").read_text())
LEVELS = ("-O0", "-O1", "-O2", "-O3", "-Os")
STRICT = ("-Wall", "-Wextra", "-Werror")
LSE = {"gcc": "-march=armv8.1-a", "zig": "-mcpu=generic+lse-neon-fp_armv8"}
FOUND = compilers()
ALL = os.environ.get("KVM_SEA_TEST_C_GUESTS") == "all"

needs_compiler = pytest.mark.skipif(
    not FOUND,
    reason="[c-compiler] no C compiler for AArch64: apt install gcc-aarch64-linux-gnu, or pip install ziglang",
)


def test_ci_has_a_compiler() -> None:
    """Where everything is asked for, there is something to test."""
    assert FOUND or not ALL


def cases() -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Program, compiler, options."""
    if ALL:
        for name in PRINTED:
            for kind in FOUND:
                yield from ((name, kind, (level,)) for level in LEVELS)
        yield from (("atomics", kind, (level, LSE[kind])) for kind in FOUND for level in LEVELS)
        return
    for kind in [*FOUND, "none"][:1]:
        for name, level in (("bits", "-O0"), ("variadic", "-O1"), ("atomics", "-O2"), ("wide", "-Os")):
            yield name, kind, (level,)
        yield "atomics", kind, ("-O3", LSE.get(kind, ""))


@pytest.fixture
def run() -> Iterator[Callable[[Path], Vm]]:
    """Run a guest until it is done."""
    made: list[tuple[SimHost, Vm]] = []

    def run_guest(path: Path) -> Vm:
        host = SimHost(load_platform("ampereone"))
        vm = Vm(host)
        made.append((host, vm))
        vm.load(GuestProgram.from_elf(path))
        vm.add_vcpu().expect_done()
        return vm

    yield run_guest
    for host, vm in made:
        vm.close()
        host.close()


@needs_compiler
@pytest.mark.parametrize(("name", "kind", "options"), list(cases()), ids="".join)
def test_programs(tmp_path: Path, run: Callable[[Path], Vm], name: str, kind: str, options: tuple[str, ...]) -> None:
    built = compile_guest(
        [PROGRAMS / f"{name}.c"], tmp_path / "a.elf", options=(*STRICT, *options), compiler=FOUND[kind]
    )
    assert "".join(run(built).console).splitlines() == PRINTED[name]


def test_every_program_is_recorded() -> None:
    assert {path.stem for path in PROGRAMS.glob("*.c")} == PRINTED.keys()


def compiled(directory: Path, code: str, *options: str) -> Path:
    source = directory / "guest.c"
    source.write_text(f'#include "kvm_sea_guest.h"\n{code}\n')
    return compile_guest([source], directory / "guest.elf", options=("-O1", *STRICT, *options))


HANDLER = "static void on_it(struct ex_regs *regs) { (void)regs; }\n"
EMPTY = "void guest_code(void) { GUEST_DONE(); }\n"
MISTAKES = {
    "too few arguments": ('void guest_code(void) { GUEST_PRINTF("%d %d", 1); }', "format|conversions"),
    "wrong argument": ('void guest_code(void) { GUEST_FAIL("%s", 1); }', "format"),
    "nine arguments": (
        'void guest_code(void) { GUEST_PRINTF("%d%d%d%d%d%d%d%d%d", 1, 2, 3, 4, 5, 6, 7, 8, 9); }',
        "a ucall carries at most 8 arguments",
    ),
    "two handlers": (
        f"{EMPTY}{HANDLER}{'GUEST_SYNC_HANDLER(VECTOR_SYNC_CURRENT, ESR_EC_BRK64, on_it);' * 2}",
        "redefinition of",
    ),
    "class of an interrupt": (
        f"{EMPTY}{HANDLER}GUEST_SYNC_HANDLER(VECTOR_IRQ_CURRENT, ESR_EC_BRK64, on_it);",
        r"only the vectors SYNC_\* have classes",
    ),
    "class": (f"{EMPTY}{HANDLER}GUEST_SYNC_HANDLER(VECTOR_SYNC_CURRENT, 64, on_it);", "has 6 bits"),
    "vector": (f"{EMPTY}{HANDLER}GUEST_HANDLER(16, on_it);", "there are 16 vectors"),
    "no guest_code": ("int unused;", "guest_code"),
    "constructor": (
        f"{EMPTY}__attribute__((constructor)) static void before(void) {{ GUEST_DONE(); }}",
        "constructors do not run in a guest",
    ),
}


@needs_compiler
@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_do_not_compile(tmp_path: Path, mistake: str) -> None:
    code, text = MISTAKES[mistake]
    with pytest.raises(GuestBuildError, match=text) as caught:
        compiled(tmp_path, code)
    assert not isinstance(caught.value, GuestElfError)


@needs_compiler
def test_floating_point_does_not_compile(tmp_path: Path) -> None:
    source = tmp_path / "guest.c"
    source.write_text(f'#include "kvm_sea_guest.h"\n{EMPTY}')
    flags = ("-D__ARM_NEON", *STRICT)
    with pytest.raises(GuestBuildError, match="a guest has no FP and SIMD registers"):
        compile_guest([source], tmp_path / "guest.elf", options=flags)


@needs_compiler
def test_the_header_is_clean_c(tmp_path: Path) -> None:
    """In strict C11, with every conversion looked at."""
    code = f"""{HANDLER}
GUEST_SYNC_HANDLER(VECTOR_SYNC_CURRENT, ESR_EC_BRK64, on_it);
GUEST_HANDLER(VECTOR_IRQ_CURRENT, on_it);
void guest_code(void)
{{
	GUEST_PRINTF("%d\\n", -1);
	GUEST_PRINTF("nothing\\n");
	GUEST_ASSERT(read_sysreg(currentel) == 4);
	GUEST_ASSERT_EQ(-1, -1L);
	GUEST_ASSERT_NE(1u, &guest_code);
	GUEST_SYNC(1);
	write_sysreg(0, tpidr_el0);
	GUEST_FAIL("%lu", read_sysreg(tpidr_el0));
	GUEST_DONE();
}}"""
    assert compiled(tmp_path, code, "-std=c11", "-Wpedantic", "-Wconversion", "-Wshadow", "-Wundef").exists()


@needs_compiler
@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("void guest_code(void) { }", r"guest code does not end: guest_code has returned; .* GUEST_DONE\(\)"),
        (
            "static void user(void) { }\nvoid guest_code(void) { enter_el0(user); }",
            "guest code does not end: the function at EL0 has returned",
        ),
        (
            "int one = 1;\nvoid guest_code(void) {\n\n\tGUEST_ASSERT_EQ(one + one, 3); }",
            r"one \+ one == 3: 0x2 != 0x3 \(one \+ one != 3\)\n  at guest.c:5, guest PC guest_code\+0x",
        ),
        ('void guest_code(void) { GUEST_ASSERT(!"100%s"); }', 'failed: !"100%s"\n  at guest.c:2'),
    ],
    ids=["returned", "returned at EL0", "not equal", "percent"],
)
def test_failures(tmp_path: Path, run: Callable[[Path], Vm], code: str, text: str) -> None:
    with pytest.raises(GuestFailure, match=text):
        run(compiled(tmp_path, code))


@needs_compiler
def test_unhandled_exceptions(tmp_path: Path, run: Callable[[Path], Vm]) -> None:
    """Told with vector and class, although others have a handler."""
    code = """
static void on_it(struct ex_regs *regs) { regs->pc += 4; }
GUEST_SYNC_HANDLER(VECTOR_SYNC_LOWER_64, ESR_EC_BRK64, on_it);
GUEST_SYNC_HANDLER(VECTOR_SYNC_CURRENT, ESR_EC_SVC64, on_it);
void guest_code(void) { __asm__ volatile("brk #1"); GUEST_DONE(); }
"""
    with pytest.raises(UnhandledException, match=r"vector 4, exception class 0x3c\n(.|\n)*at guest_code\+0x"):
        run(compiled(tmp_path, code))


@needs_compiler
def test_an_serror_that_nobody_handles(tmp_path: Path) -> None:
    """It has no class. The guest goes on as if it had been handled."""
    path = compiled(tmp_path, "void guest_code(void) { local_serror_enable(); GUEST_SYNC(1); GUEST_DONE(); }")
    host = SimHost(load_platform("ampereone"))
    with Vm(host) as vm:
        vm.load(GuestProgram.from_elf(path))
        vcpu = vm.add_vcpu()
        vcpu.expect_sync(1)
        vcpu.inject_serror()
        with pytest.raises(UnhandledException, match="vector 7, an interrupt or SError"):
            vcpu.resume()
        vcpu.expect_done()
    host.close()


@needs_compiler
def test_options_of_the_layout(tmp_path: Path, run: Callable[[Path], Vm]) -> None:
    code = """
void guest_code(void) {
	volatile char large[60000];
	large[0] = 1;
	GUEST_PRINTF("%d", large[0]);
	GUEST_DONE();
}
"""
    vm = run(compiled(tmp_path, code, "-DKVM_SEA_UCALL_MMIO=0x4000000", "-DKVM_SEA_STACK_SIZE=0x10000"))
    assert vm.console == ["1"]
    assert vm.ucall_address == 0x4000000


@needs_compiler
def test_a_guest_may_have_its_own_memcpy(tmp_path: Path, run: Callable[[Path], Vm]) -> None:
    code = """
int copies;
void *memcpy(void *to, const void *from, size_t size) {
	copies++;
	for (volatile size_t at = 0; at < size; at++) ((volatile char *)to)[at] = ((const volatile char *)from)[at];
	return to;
}
char from[300] = "text", to[300];
volatile size_t size = sizeof(from);
void guest_code(void) { memcpy(to, from, size); GUEST_PRINTF("%s %d", to, copies); GUEST_DONE(); }
"""
    assert run(compiled(tmp_path, code)).console == ["text 1"]


def test_without_a_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cc, "compilers", dict)
    with pytest.raises(GuestBuildError, match=r"apt install gcc-aarch64-linux-gnu .* or pip install ziglang"):
        compile_guest([tmp_path / "guest.c"], tmp_path / "guest.elf")


def test_the_flags_name_what_is_there() -> None:
    paths = [Path(flag.removeprefix("-I")) for flag in build_flags() if "/" in flag]
    assert all(path.exists() for path in paths)
    assert include_dir() in paths
    assert {path.name for path in include_dir().iterdir()} == {"kvm_sea_guest.h"} | {path.name for path in paths[1:]}
