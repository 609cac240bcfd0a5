# SPDX-License-Identifier: GPL-2.0-only
"""What cannot be written as guest code, and what it says then."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pytest_kvm_sea.addresses import GuestVA
from pytest_kvm_sea.guest.builder import Guest
from pytest_kvm_sea.guest.errors import GuestBuildError
from pytest_kvm_sea.guest.program import GuestProgram
from pytest_kvm_sea.guest.values import Operand, Value
from pytest_kvm_sea.guest.vectors import ExRegs, Vector


def nothing(g: Guest, regs: ExRegs) -> None:
    regs.pc += 4


def helper(g: Guest, *arguments: Value) -> Operand:
    return sum(arguments, g.let(0))


def python_if(g: Guest) -> None:
    if g.read_u64(0):
        g.done()


def escaped_value(g: Guest) -> None:
    with g.if_(1):
        inner = g.let(5)
    g.printf("%lu", inner)


def foreign_value(g: Guest) -> None:
    outer = g.let(5)

    def inner(g: Guest) -> None:
        g.printf("%lu", outer)

    g.call(inner)


def deep_formula(g: Guest) -> None:
    leaves: list[Operand] = [g.let(i) for i in range(128)]
    while len(leaves) > 1:
        leaves = [left * right for left, right in zip(leaves[::2], leaves[1::2], strict=True)]
    g.let(leaves[0])


def other_arity(g: Guest) -> None:
    g.call(helper, 1)
    g.call(helper, 1, 2)


def else_after_code(g: Guest) -> None:
    with g.if_(g.let(1)):
        g.nop()
    g.nop()
    with g.else_():
        g.nop()


def else_twice(g: Guest) -> None:
    with g.if_(g.let(1)):
        g.nop()
    with g.else_():
        g.nop()
    with g.else_():
        g.nop()


def else_in_a_loop(g: Guest) -> None:
    with g.if_(g.let(1)):
        g.nop()
    with g.loop(), g.else_():
        g.nop()


def label_twice(g: Guest) -> None:
    g.label_here("here")
    g.label_here("here")


REFUSED: dict[str, tuple[Callable[[Guest], object], str]] = {
    "if in Python": (python_if, "use g.if_(), g.while_() or g.assert_true()"),
    "and in Python": (lambda g: g.let(1) and g.let(2), "and & | in place of and, or"),
    "value of an ended block": (escaped_value, "escaped_value: a value is used after the with-block that made it"),
    "value of another function": (
        foreign_value,
        "a value of foreign_value is used in inner; hand it over",
    ),
    "too deep a formula": (
        deep_formula,
        "deep_formula: a formula is too deep; compute a part of it first",
    ),
    "number too great": (lambda g: g.let(1 << 64), "0x10000000000000000 does not fit into 64 bits; it takes -2**63 to"),
    "number too small": (lambda g: g.let(1) + (-(1 << 63) - 1), "does not fit into 64 bits"),
    "no number": (lambda g: g.let("text"), "'text' is no value of a guest; it takes a Value or an int"),  # type: ignore[arg-type]
    "shift": (lambda g: g.let(1) << 64, "shift by 64; it takes 0 to 63"),
    "negative shift": (lambda g: g.let(1) >> -1, "shift by -1; it takes 0 to 63"),
    "too few arguments": (
        lambda g: g.printf("a=%#lx b=%s\n", 1),
        r"format 'a=%#lx b=%s\n' with arguments (1,): the format takes 2 arguments (%#lx %s), 1 were given",
    ),
    "too many arguments": (
        lambda g: g.fail("nothing", 1, g.let(2)),
        "format 'nothing' with arguments (1, <value in x19>): the format takes 0 arguments (none), 2 were given",
    ),
    "more than a ucall holds": (
        lambda g: g.printf("%d" * 9, *range(9)),
        "with arguments (0, 1, 2, 3, 4, 5, 6, 7, 8): 9 arguments; a ucall carries at most 8",
    ),
    "string for a number": (lambda g: g.printf("%d", "one"), "format '%d' with arguments ('one',): %d takes a number"),
    "unknown conversion": (lambda g: g.printf("%y"), "format '%y' with arguments (): no printf conversion at offset 0"),
    "message of an assertion": (lambda g: g.assert_true(1, "%d"), "format '%d' with arguments (): the format takes 1"),
    "NUL in a string": (lambda g: g.printf("a\0b"), r"string 'a\x00b': it takes at most 4096 bytes without a NUL"),
    "long string": (
        lambda g: g.printf("%s", "x" * 4097),
        f"string '{'x' * 40}…': it takes",
    ),
    "unknown global": (lambda g: g.load_global("far"), "no global 'far'; this program has: far_invalid"),
    "unknown symbol": (lambda g: g.symbol("acess"), ": no symbol 'acess'; this program has: "),
    "label twice": (label_twice, "the name 'here' is taken: functions, globals and labels have one each"),
    "label of a global": (lambda g: g.label_here("far_invalid"), "the name 'far_invalid' is taken"),
    "else without if": (lambda g: g.else_().__enter__(), "else_: it must directly follow the block of an if_"),
    "else after code": (else_after_code, "else_: it must directly follow the block of an if_"),
    "else twice": (else_twice, "else_: it must directly follow the block of an if_"),
    "else in a loop": (else_in_a_loop, "else_: it must directly follow the block of an if_"),
    "break outside": (lambda g: g.break_(), "break_: not inside a while_() or loop()"),
    "continue outside": (lambda g: g.continue_(), "continue_: not inside a while_() or loop()"),
    "nine arguments": (lambda g: g.call(helper, *range(9)), "a call with 9 arguments; it takes at most 8"),
    "nine arguments of HVC": (lambda g: g.hvc(0, *range(9)), "a call with 9 arguments; it takes at most 8"),
    "other arity": (other_arity, "helper is called with 2 arguments here and with 1 elsewhere"),
    "no user function": (lambda g: g.enter_el0(), "enter_el0: this program has no user function"),
    "unknown system register": (lambda g: g.read_sysreg("esr_el7"), "unknown system register 'esr_el7'"),
    "unknown field": (lambda g: g.msr_imm("nzcv", 1), "msr_imm: 'nzcv' is no field of PSTATE; it takes uao, pan"),
    "field value": (lambda g: g.daifset(16), "msr daifset: imm is 16; it takes 0 to 15"),
    "unknown operation": (lambda g: g.system("dc all"), "system: 'dc all' is unknown; it takes dc ivac"),
    "unknown barrier": (lambda g: g.dsb("all"), "dsb: option is 'all'; it takes oshld"),
    "SVC number": (lambda g: g.svc(1 << 16), "svc: imm is 65536; it takes 0 to 65535"),
}


@pytest.mark.parametrize(("code", "message"), REFUSED.values(), ids=REFUSED)
def test_refuses_code(code: Callable[[Guest], object], message: str) -> None:
    def guest_code(g: Guest) -> None:
        code(g)

    guest_code.__name__ = code.__name__
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the text is compared below
        GuestProgram.build(guest_code, globals={"far_invalid": 0})
    assert message in str(caught.value)


PROGRAMS: dict[str, tuple[dict[str, Any], str]] = {
    "class of an SError": (
        {"handlers": {(Vector.ERROR_CURRENT, 5): nothing}},
        "ERROR_CURRENT, class 0x5: only SYNC",
    ),
    "class too great": ({"handlers": {(Vector.SYNC_CURRENT, 64): nothing}}, "class is 0x40; it takes 0 to 0x3f"),
    "two handlers": (
        {"handlers": {Vector.ERROR_CURRENT: nothing, (Vector.ERROR_CURRENT, 0): nothing}},
        "two handlers for ERROR_CURRENT",
    ),
    "global too great": (
        {"globals": {"big": 1 << 64}},
        "global 'big' is 0x10000000000000000; it takes",
    ),
    "base": ({"base": GuestVA(0x10800)}, "base is 0x10800; it takes a multiple of 0x1000"),
    "stack": ({"stack_size": 100}, "stack_size is 0x64; it takes a positive multiple of 0x1000"),
    "no stack": ({"stack_size": 0}, "stack_size is 0x0; it takes a positive multiple of 0x1000"),
}


@pytest.mark.parametrize(("options", "message"), PROGRAMS.values(), ids=PROGRAMS)
def test_refuses_programs(options: dict[str, Any], message: str) -> None:
    with pytest.raises(GuestBuildError) as caught:
        GuestProgram.build(lambda g: g.done(), **options)
    assert message in str(caught.value)


def test_registers_that_do_not_exist() -> None:
    for wrong in (lambda regs: regs.x(31), lambda regs: regs.set_x(-1, 0)):

        def handler(g: Guest, regs: ExRegs, access: Callable[[ExRegs], object] = wrong) -> None:
            access(regs)

        with pytest.raises(GuestBuildError, match=r"there is no register x(31|-1); it takes 0 to 30"):
            GuestProgram.build(lambda g: g.done(), handlers={Vector.SYNC_CURRENT: handler})


def test_functions_of_the_same_name_have_symbols_of_their_own() -> None:
    def named(text: str) -> Callable[[Guest, ExRegs], None]:
        def handler(g: Guest, regs: ExRegs) -> None:
            g.printf("%s", text)

        return handler

    program = GuestProgram.build(
        lambda g: g.done(), handlers={(Vector.SYNC_CURRENT, 1): named("a"), (Vector.SYNC_CURRENT, 2): named("b")}
    )
    assert {"handler", "handler~2", "<lambda>"} <= program.symbols.keys()
    assert program.symbols["handler"] != program.symbols["handler~2"]


def test_one_handler_at_several_vectors_is_emitted_once() -> None:
    handlers = dict.fromkeys([(Vector.SYNC_CURRENT, 0x25), (Vector.SYNC_LOWER_64, 0x24)], nothing)
    program = GuestProgram.build(lambda g: g.done(), handlers=handlers)
    assert [name for name in program.symbols if name.startswith("nothing")] == ["nothing"]


def test_an_error_in_a_block_is_the_one_that_is_raised() -> None:
    def guest_code(g: Guest) -> None:
        with g.loop(), g.if_(1):
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        GuestProgram.build(guest_code)
