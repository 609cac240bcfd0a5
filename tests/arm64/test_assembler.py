# SPDX-License-Identifier: GPL-2.0-only
"""The assembler against capstone's text: what is written is what is encoded."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_kvm_sea.arm64.asm_control import BARRIERS, SYSTEM_OPERATIONS
from pytest_kvm_sea.arm64.asm_memory import ATOMICS
from pytest_kvm_sea.arm64.assembler import Assembler
from pytest_kvm_sea.arm64.disassembler import disassemble
from pytest_kvm_sea.arm64.encodings import ENCODINGS
from pytest_kvm_sea.arm64.operands import (
    SP,
    W0,
    W1,
    W2,
    W3,
    WSP,
    WZR,
    X0,
    X1,
    X2,
    X3,
    X4,
    X6,
    X30,
    XZR,
    Cond,
    Extend,
    Indexed,
    Label,
    Offset,
    Post,
    Pre,
    Reg,
    Shift,
    W,
    X,
    bitmask_immediate,
)
from pytest_kvm_sea.arm64.sysregs import SYSREGS

BASE = 0x10000
Emit = Callable[[Assembler], object]
X_REGS = st.sampled_from([*X, XZR])
W_REGS = st.sampled_from([*W, WZR])
BASES = st.sampled_from([*X, SP])


def texts(emit: Emit) -> list[str]:
    """What capstone makes of the code."""
    asm = Assembler()
    emit(asm)
    return [line.text for line in disassemble(asm.assemble(BASE), BASE)]


def imm(number: int) -> str:
    """A number as capstone writes it."""
    sign = "-" if number < 0 else ""
    return f"#{sign}{abs(number)}" if abs(number) <= 9 else f"#{sign}{abs(number):#x}"


def here(emit: Callable[[Assembler, Label], object]) -> Emit:
    """Code that refers to its own start."""

    def with_label(asm: Assembler) -> None:
        label = Label("here")
        asm.label(label)
        emit(asm, label)

    return with_label


EXAMPLES: list[tuple[str, Emit]] = [
    ("add x0, x1, x2, asr #3", lambda a: a.add(X0, X1, X2, Shift.ASR, 3)),
    ("add sp, x1, #0x10", lambda a: a.add(SP, X1, 16)),
    ("add x0, x1, #1, lsl #12", lambda a: a.add(X0, X1, 4096)),
    ("add sp, sp, x2, lsl #2", lambda a: a.add(SP, SP, X2, Shift.LSL, 2)),
    ("add wsp, wsp, w2", lambda a: a.add(WSP, WSP, W2)),
    ("adds w0, w1, w2", lambda a: a.adds(W0, W1, W2)),
    ("sub x0, sp, #8", lambda a: a.sub(X0, SP, 8)),
    ("subs x0, x1, x2", lambda a: a.subs(X0, X1, X2)),
    ("cmp x1, #0xfff", lambda a: a.cmp(X1, 4095)),
    ("cmp sp, x2", lambda a: a.cmp(SP, X2)),
    ("cmn w1, w2", lambda a: a.cmn(W1, W2)),
    ("neg x0, x1", lambda a: a.neg(X0, X1)),
    ("negs w0, w1", lambda a: a.negs(W0, W1)),
    ("add x0, x1, w2, sxtw #2", lambda a: a.add_extended(X0, X1, W2, Extend.SXTW, 2)),
    ("adds x0, sp, w2, uxtb", lambda a: a.adds_extended(X0, SP, W2, Extend.UXTB)),
    ("sub sp, x1, x2, sxtx", lambda a: a.sub_extended(SP, X1, X2, Extend.SXTX)),
    ("subs w0, w1, w2, uxth #4", lambda a: a.subs_extended(W0, W1, W2, Extend.UXTH, 4)),
    ("adc x0, x1, x2", lambda a: a.adc(X0, X1, X2)),
    ("adcs w0, w1, w2", lambda a: a.adcs(W0, W1, W2)),
    ("sbc x0, x1, x2", lambda a: a.sbc(X0, X1, X2)),
    ("sbcs x0, x1, x2", lambda a: a.sbcs(X0, X1, X2)),
    ("and x0, x1, #0xff00ff00ff00ff00", lambda a: a.and_(X0, X1, 0xFF00FF00FF00FF00)),
    ("and w0, w1, #0xfffffffe", lambda a: a.and_(W0, W1, -2)),
    ("and sp, x1, #0xfffffffffffffff0", lambda a: a.and_(SP, X1, -16)),
    ("ands x0, x1, x2, ror #7", lambda a: a.ands(X0, X1, X2, Shift.ROR, 7)),
    ("tst x1, #1", lambda a: a.tst(X1, 1)),
    ("orr w0, w1, w2", lambda a: a.orr(W0, W1, W2)),
    ("eor x0, x1, #0x8000000000000000", lambda a: a.eor(X0, X1, 1 << 63)),
    ("bic x0, x1, x2", lambda a: a.bic(X0, X1, X2)),
    ("bics x0, x1, x2", lambda a: a.bics(X0, X1, X2)),
    ("orn x0, x1, x2, lsr #1", lambda a: a.orn(X0, X1, X2, Shift.LSR, 1)),
    ("eon w0, w1, w2", lambda a: a.eon(W0, W1, W2)),
    ("mvn x0, x1", lambda a: a.mvn(X0, X1)),
    ("mov x0, x1", lambda a: a.mov(X0, X1)),
    ("mov w0, wzr", lambda a: a.mov(W0, WZR)),
    ("mov sp, x1", lambda a: a.mov(SP, X1)),
    ("mov x1, sp", lambda a: a.mov(X1, SP)),
    ("mov x0, #-1", lambda a: a.mov(X0, -1)),
    ("mov w0, #-1", lambda a: a.mov(W0, 0xFFFFFFFF)),
    ("movk x0, #0x1234, lsl #48", lambda a: a.movk(X0, 0x1234, 48)),
    ("sbfx x0, x1, #3, #5", lambda a: a.sbfm(X0, X1, 3, 7)),
    ("bfxil x0, x1, #3, #5", lambda a: a.bfxil(X0, X1, 3, 5)),
    ("bfi w0, w1, #3, #5", lambda a: a.bfi(W0, W1, 3, 5)),
    ("bfxil x0, x1, #1, #2", lambda a: a.bfm(X0, X1, 1, 2)),
    ("ubfx x0, x1, #1, #2", lambda a: a.ubfm(X0, X1, 1, 2)),
    ("ubfiz x0, x1, #8, #0x10", lambda a: a.ubfiz(X0, X1, 8, 16)),
    ("sbfiz x0, x1, #8, #0x10", lambda a: a.sbfiz(X0, X1, 8, 16)),
    ("sxtb x0, w1", lambda a: a.sxtb(X0, X1)),
    ("sxth w0, w1", lambda a: a.sxth(W0, W1)),
    ("sxtw x0, w1", lambda a: a.sxtw(X0, X1)),
    ("uxtb w0, w1", lambda a: a.uxtb(W0, W1)),
    ("uxth w0, w1", lambda a: a.uxth(W0, W1)),
    ("lsl x0, x1, #1", lambda a: a.lsl(X0, X1, 1)),
    ("lsl w0, w1, w2", lambda a: a.lsl(W0, W1, W2)),
    ("lsr x0, x1, #0x3f", lambda a: a.lsr(X0, X1, 63)),
    ("lsr x0, x1, x2", lambda a: a.lsr(X0, X1, X2)),
    ("asr w0, w1, #0x1f", lambda a: a.asr(W0, W1, 31)),
    ("asr x0, x1, x2", lambda a: a.asr(X0, X1, X2)),
    ("ror x0, x1, #5", lambda a: a.ror(X0, X1, 5)),
    ("ror w0, w1, w2", lambda a: a.ror(W0, W1, W2)),
    ("extr w0, w1, w2, #0x1f", lambda a: a.extr(W0, W1, W2, 31)),
    ("madd x0, x1, x2, x3", lambda a: a.madd(X0, X1, X2, X3)),
    ("msub w0, w1, w2, w3", lambda a: a.msub(W0, W1, W2, W3)),
    ("mul x0, x1, x2", lambda a: a.mul(X0, X1, X2)),
    ("mneg x0, x1, x2", lambda a: a.mneg(X0, X1, X2)),
    ("smaddl x0, w1, w2, x3", lambda a: a.smaddl(X0, W1, W2, X3)),
    ("smsubl x0, w1, w2, x3", lambda a: a.smsubl(X0, W1, W2, X3)),
    ("umaddl x0, w1, w2, x3", lambda a: a.umaddl(X0, W1, W2, X3)),
    ("umsubl x0, w1, w2, x3", lambda a: a.umsubl(X0, W1, W2, X3)),
    ("smull x0, w1, w2", lambda a: a.smull(X0, W1, W2)),
    ("umull x0, w1, w2", lambda a: a.umull(X0, W1, W2)),
    ("smulh x0, x1, x2", lambda a: a.smulh(X0, X1, X2)),
    ("umulh x0, x1, x2", lambda a: a.umulh(X0, X1, X2)),
    ("udiv x0, x1, x2", lambda a: a.udiv(X0, X1, X2)),
    ("sdiv w0, w1, w2", lambda a: a.sdiv(W0, W1, W2)),
    ("crc32b w0, w1, w2", lambda a: a.crc32(W0, W1, W2, 1)),
    ("crc32x w0, w1, x2", lambda a: a.crc32(W0, W1, X2, 8)),
    ("crc32ch w0, w1, w2", lambda a: a.crc32(W0, W1, W2, 2, castagnoli=True)),
    ("rbit x0, x1", lambda a: a.rbit(X0, X1)),
    ("rev16 w0, w1", lambda a: a.rev16(W0, W1)),
    ("rev32 x0, x1", lambda a: a.rev32(X0, X1)),
    ("rev x0, x1", lambda a: a.rev(X0, X1)),
    ("rev w0, w1", lambda a: a.rev(W0, W1)),
    ("clz x0, x1", lambda a: a.clz(X0, X1)),
    ("cls w0, w1", lambda a: a.cls(W0, W1)),
    ("csel x0, x1, x2, hi", lambda a: a.csel(X0, X1, X2, Cond.HI)),
    ("csinc w0, w1, w2, lt", lambda a: a.csinc(W0, W1, W2, Cond.LT)),
    ("csinv x0, x1, x2, eq", lambda a: a.csinv(X0, X1, X2, Cond.EQ)),
    ("csneg x0, x1, x2, vs", lambda a: a.csneg(X0, X1, X2, Cond.VS)),
    ("cset x0, hs", lambda a: a.cset(X0, Cond.HS)),
    ("csetm w0, ge", lambda a: a.csetm(W0, Cond.GE)),
    ("cinc x0, x1, ne", lambda a: a.cinc(X0, X1, Cond.NE)),
    ("ccmp x1, #0x1f, #4, ne", lambda a: a.ccmp(X1, 31, 4, Cond.NE)),
    ("ccmn w1, w2, #0xf, al", lambda a: a.ccmn(W1, W2, 15, Cond.AL)),
    ("b #0x10000", here(lambda a, label: a.b(label))),
    ("bl #0x10000", here(lambda a, label: a.bl(label))),
    ("b.ls #0x10000", here(lambda a, label: a.b_cond(Cond.LS, label))),
    ("cbz w3, #0x10000", here(lambda a, label: a.cbz(W3, label))),
    ("cbnz x3, #0x10000", here(lambda a, label: a.cbnz(X3, label))),
    ("tbz w3, #0x1f, #0x10000", here(lambda a, label: a.tbz(W3, 31, label))),
    ("tbnz x3, #0x20, #0x10000", here(lambda a, label: a.tbnz(X3, 32, label))),
    ("br x3", lambda a: a.br(X3)),
    ("blr x30", lambda a: a.blr(X30)),
    ("ret", lambda a: a.ret()),
    ("ret x1", lambda a: a.ret(X1)),
    ("eret", lambda a: a.eret()),
    ("adr x0, #0x10003", here(lambda a, label: a.adr(X0, label, 3))),
    ("adrp x0, #0x12000", here(lambda a, label: a.adrp(X0, label, 0x2FFF))),
    ("svc #0xffff", lambda a: a.svc(0xFFFF)),
    ("hvc #1", lambda a: a.hvc(1)),
    ("smc #2", lambda a: a.smc(2)),
    ("brk #0x3e8", lambda a: a.brk(1000)),
    ("hlt #3", lambda a: a.hlt(3)),
    ("udf #0", lambda a: a.udf()),
    ("nop", lambda a: a.nop()),
    ("yield", lambda a: a.yield_()),
    ("wfe", lambda a: a.wfe()),
    ("wfi", lambda a: a.wfi()),
    ("sev", lambda a: a.sev()),
    ("esb", lambda a: a.esb()),
    ("clrex", lambda a: a.clrex()),
    ("isb", lambda a: a.isb()),
    ("dmb ishst", lambda a: a.dmb("ishst")),
    ("msr daifset, #0xf", lambda a: a.msr_imm("daifset", 15)),
    ("msr daifclr, #4", lambda a: a.msr_imm("daifclr", 4)),
    ("msr spsel, #1", lambda a: a.msr_imm("spsel", 1)),
    ("msr pan, #0", lambda a: a.msr_imm("pan", 0)),
    ("tlbi vmalle1", lambda a: a.system("tlbi vmalle1")),
    ("msr s3_0_c15_c1_2, x3", lambda a: a.msr("s3_0_c15_c1_2", X3)),
    ("ldr x0, #0x10000", here(lambda a, label: a.ldr_literal(X0, label))),
    ("ldr w0, #0x10008", here(lambda a, label: a.ldr_literal(W0, label, 8))),
    ("ldrsw x0, #0x10000", here(lambda a, label: a.ldrsw_literal(X0, label))),
    ("ldr x0, [x1, x2]", lambda a: a.ldr(X0, Indexed(X1, X2))),
    ("ldr x0, [sp, x2, lsl #3]", lambda a: a.ldr(X0, Indexed(SP, X2, shifted=True))),
    ("strh w0, [x1, w2, uxtw #1]", lambda a: a.strh(W0, Indexed(X1, W2, Extend.UXTW, shifted=True))),
    ("ldrsb x0, [x1, w2, sxtw]", lambda a: a.ldrsb(X0, Indexed(X1, W2, Extend.SXTW))),
    ("ldr w0, [x1, x2, sxtx]", lambda a: a.ldr(W0, Indexed(X1, X2, Extend.SXTX))),
    ("ldtr x0, [x1, #-1]", lambda a: a.ldtr(X0, X1, -1)),
    ("sttr w0, [x1]", lambda a: a.sttr(W0, X1)),
    ("prfm pstl2strm, [x1, #8]", lambda a: a.prfm("pstl2strm", X1, 8)),
    ("ldpsw x0, x1, [x2, #4]", lambda a: a.ldpsw(X0, X1, Offset(X2, 4))),
    ("ldnp x0, x1, [sp, #-0x200]", lambda a: a.ldnp(X0, X1, Offset(SP, -512))),
    ("stnp w0, w1, [x2]", lambda a: a.stnp(W0, W1, X2)),
    ("ldxr x0, [x1]", lambda a: a.ldxr(X0, X1)),
    ("ldaxrb w0, [sp]", lambda a: a.ldxr(W0, SP, size=1, acquire=True)),
    ("stxr w0, x1, [x2]", lambda a: a.stxr(W0, X1, X2)),
    ("stlxrh w0, w1, [x2]", lambda a: a.stxr(W0, W1, X2, size=2, release=True)),
    ("ldxp x0, x1, [x2]", lambda a: a.ldxp(X0, X1, X2)),
    ("ldaxp w0, w1, [x2]", lambda a: a.ldxp(W0, W1, X2, acquire=True)),
    ("stxp w0, x1, x2, [x3]", lambda a: a.stxp(W0, X1, X2, X3)),
    ("stlxp w0, w1, w2, [x3]", lambda a: a.stxp(W0, W1, W2, X3, release=True)),
    ("ldar x0, [x1]", lambda a: a.ldar(X0, X1)),
    ("stlrb w0, [x1]", lambda a: a.stlr(W0, X1, size=1)),
    ("ldlar w0, [x1]", lambda a: a.ldlar(W0, X1)),
    ("stllrh w0, [x1]", lambda a: a.stllr(W0, X1, size=2)),
    ("ldapr x0, [x1]", lambda a: a.ldapr(X0, X1)),
    ("ldapur x0, [x1, #-0x100]", lambda a: a.ldapur(X0, X1, -256)),
    ("stlur w0, [x1, #0xff]", lambda a: a.stlur(W0, X1, 255)),
    ("casp x2, x3, x4, x5, [x6]", lambda a: a.casp(X2, X4, X6)),
    ("caspal w2, w3, w0, w1, [sp]", lambda a: a.casp(W2, W0, SP, acquire=True, release=True)),
    (".word 0xdeadbeef", lambda a: a.word(0xDEADBEEF)),
]


@pytest.mark.parametrize(("text", "emit"), EXAMPLES, ids=[text for text, _ in EXAMPLES])
def test_reads_as_written(text: str, emit: Emit) -> None:
    assert texts(emit) == [text]


def test_every_class_of_the_table_can_be_written() -> None:
    """Whatever the table of encodings has, except for what no guest needs by name, an example above writes."""
    written = set()
    for _, emit in EXAMPLES + OTHERS:
        asm = Assembler()
        emit(asm)
        word = int.from_bytes(asm.assemble(BASE)[:4], "little")
        written |= {name for name, encoding in ENCODINGS.items() if encoding.has(word)}
    missing = ENCODINGS.keys() - written
    assert missing == {"SYSL", "PRFM_UNSCALED", "PRFM_REG", "PRFM_LITERAL", "FP_SIMD"} - written


OTHERS: list[tuple[str, Emit]] = [
    ("", lambda a: a.ldr(X0, X1)),
    ("", lambda a: a.ldr(X0, Offset(X1, -1))),
    ("", lambda a: a.ldr(X0, Post(X1, 8))),
    ("", lambda a: a.ldr(X0, Pre(X1, 8))),
    ("", lambda a: a.ldp(X0, X1, X2)),
    ("", lambda a: a.mrs(X0, "esr_el1")),
    ("", lambda a: a.dsb()),
    ("", lambda a: a.sb()),
    ("", lambda a: a.atomic("swp", X0, X1, X2)),
    ("", lambda a: a.atomic("cas", X0, X1, X2)),
    ("", lambda a: a.atomic("ldadd", X0, X1, X2)),
]


@given(X_REGS, X_REGS, st.integers(0, 4095), st.booleans(), st.booleans())
def test_add_and_sub_immediate(rd: Reg, rn: Reg, number: int, subtract: bool, shifted: bool) -> None:
    rd, rn = (SP if reg is XZR else reg for reg in (rd, rn))
    value = number << 12 if shifted else number
    (text,) = texts(lambda a: (a.sub if subtract else a.add)(rd, rn, value))
    if number == 0 and not subtract and SP in {rd, rn}:
        assert text == f"mov {rd}, {rn}"
    elif shifted and number:
        assert text == f"{'sub' if subtract else 'add'} {rd}, {rn}, {imm(number)}, lsl #12"
    else:
        assert text == f"{'sub' if subtract else 'add'} {rd}, {rn}, {imm(value)}"


SINGLE: dict[str, tuple[Callable[[Assembler, Reg, Offset | Pre | Post], None], int, st.SearchStrategy[Reg]]] = {
    "ldr": (Assembler.ldr, 0, st.one_of(X_REGS, W_REGS)),
    "str": (Assembler.str, 0, st.one_of(X_REGS, W_REGS)),
    "ldrb": (Assembler.ldrb, 1, W_REGS),
    "strb": (Assembler.strb, 1, W_REGS),
    "ldrh": (Assembler.ldrh, 2, W_REGS),
    "strh": (Assembler.strh, 2, W_REGS),
    "ldrsb": (Assembler.ldrsb, 1, st.one_of(X_REGS, W_REGS)),
    "ldrsh": (Assembler.ldrsh, 2, st.one_of(X_REGS, W_REGS)),
    "ldrsw": (Assembler.ldrsw, 4, X_REGS),
}


@settings(max_examples=300)
@given(st.data(), st.sampled_from(sorted(SINGLE)), BASES)
def test_loads_and_stores_of_all_forms(data: st.DataObject, mnemonic: str, base: Reg) -> None:
    method, size, registers = SINGLE[mnemonic]
    rt = data.draw(registers)
    size = size or rt.bits // 8
    form = data.draw(st.sampled_from(["scaled", "unscaled", "pre", "post"]))
    if form == "scaled":
        offset = data.draw(st.integers(0, 4095)) * size
        (text,) = texts(lambda a: method(a, rt, Offset(base, offset)))
        assert text == f"{mnemonic} {rt}, [{base}{f', {imm(offset)}' if offset else ''}]"
        return
    offset = data.draw(st.integers(-256, 255))
    if form == "unscaled":
        (text,) = texts(lambda a: method(a, rt, Offset(base, offset)))
        name = mnemonic if offset >= 0 and offset % size == 0 else f"{mnemonic[:2]}u{mnemonic[2:]}"
        assert text == f"{name} {rt}, [{base}{f', {imm(offset)}' if offset else ''}]"
        return
    address = Pre(base, offset) if form == "pre" else Post(base, offset)
    if rt.number == base.number and not base.is_sp:
        with pytest.raises(ValueError, match="the base that is written back"):
            texts(lambda a: method(a, rt, address))
        return
    (text,) = texts(lambda a: method(a, rt, address))
    # capstone 5 writes a negative post-index as an unsigned number.
    post = imm(offset) if offset >= 0 else f"#{offset & (1 << 64) - 1:#x}"
    assert text == f"{mnemonic} {rt}, {f'[{base}, {imm(offset)}]!' if form == 'pre' else f'[{base}], {post}'}"


@given(st.integers(0, 30), st.integers(0, 30), BASES, st.integers(-64, 63), st.booleans(), st.booleans())
def test_pairs(first: int, second: int, base: Reg, units: int, load: bool, wide: bool) -> None:
    registers, scale = (X, 8) if wide else (W, 4)
    rt, rt2, offset = registers[first], registers[second], units * scale

    def method(a: Assembler, address: Offset | Pre | Post) -> None:
        (a.ldp if load else a.stp)(rt, rt2, address)

    mnemonic = "ldp" if load else "stp"
    if load and rt is rt2:
        with pytest.raises(ValueError, match="rt and rt2 are both"):
            texts(lambda a: method(a, Offset(base, offset)))
        return
    tail = f", {imm(offset)}" if offset else ""
    assert texts(lambda a: method(a, Offset(base, offset))) == [f"{mnemonic} {rt}, {rt2}, [{base}{tail}]"]
    if base.is_sp or base.number not in {first, second}:
        pre = f"{mnemonic} {rt}, {rt2}, [{base}, {imm(offset)}]!"
        post = f"{mnemonic} {rt}, {rt2}, [{base}], {imm(offset)}"
        assert texts(lambda a: method(a, Pre(base, offset))) == [pre]
        assert texts(lambda a: method(a, Post(base, offset))) == [post]


def test_all_atomics_read_as_named() -> None:
    for mnemonic, (_, _, size) in ATOMICS.items():
        rs, rt = (X1, X2) if size is None else (W1, W2)
        (text,) = texts(lambda a, m=mnemonic, s=rs, t=rt: a.atomic(m, s, t, X3))  # type: ignore[misc]
        assert text == f"{mnemonic} {rs}, {rt}, [x3]"


def test_all_system_operations_read_as_named() -> None:
    for operation in SYSTEM_OPERATIONS:
        (text,) = texts(lambda a, o=operation: a.system(o, X3))  # type: ignore[misc]
        assert text in {operation, f"{operation}, x3"}


def test_all_barriers_read_as_named() -> None:
    for option in BARRIERS:
        assert texts(lambda a, o=option: a.dsb(o)) == [f"dsb {option}"]  # type: ignore[misc]


def test_system_registers_read_as_named() -> None:
    """Names that capstone does not know read as their encoding."""
    known = 0
    for name in SYSREGS:
        read, write = texts(lambda a, n=name: (a.mrs(X1, n), a.msr(n, X2)))  # type: ignore[misc]
        known += name in read
        assert name in read or "s3_" in read or "s2_" in read
        assert read.startswith("mrs x1, ")
        assert write.endswith(", x2")
    assert known > len(SYSREGS) // 2


# Immediates


def bitmask(n: int, immr: int, imms: int, bits: int) -> int | None:
    """DecodeBitMasks of the Arm ARM, written from its text."""
    combined = n << 6 | (~imms & 0x3F)
    length = combined.bit_length() - 1
    if length < 1 or (bits == 32 and n):
        return None
    levels = (1 << length) - 1
    s, r, size = imms & levels, immr & levels, 1 << length
    if s == levels:
        return None
    element = (1 << s + 1) - 1
    element = (element >> r | element << size - r) & (1 << size) - 1
    return sum(element << at for at in range(0, bits, size))


@pytest.mark.parametrize("bits", [32, 64])
def test_every_bitmask_immediate_round_trips(bits: int) -> None:
    values = {bitmask(n, r, s, bits) for n in (0, 1) for r in range(64) for s in range(64)} - {None}
    assert len(values) == (1302 if bits == 32 else 5334)
    for value in values:
        assert value is not None
        encoded = bitmask_immediate(value, bits)
        assert encoded is not None
        assert bitmask(*encoded, bits) == value


@given(st.integers(0, (1 << 64) - 1))
def test_other_numbers_are_no_bitmask_immediates(value: int) -> None:
    encoded = bitmask_immediate(value, 64)
    assert encoded is None or bitmask(*encoded, 64) == value


def run_moves(code: bytes, bits: int) -> int:
    """What a sequence of MOVZ, MOVN, MOVK and ORR leaves in its register."""
    value = 0
    for at in range(0, len(code), 4):
        word = int.from_bytes(code[at : at + 4], "little")
        if ENCODINGS["LOGICAL_IMM"].has(word):
            fields = ENCODINGS["LOGICAL_IMM"].decode(word)
            decoded = bitmask(fields["N"], fields["immr"], fields["imms"], bits)
            assert decoded is not None
            value = decoded
            continue
        fields = ENCODINGS["MOVE_WIDE"].decode(word)
        shift = 16 * fields["hw"]
        part = fields["imm16"] << shift
        value = {0: ~part, 2: part, 3: value & ~(0xFFFF << shift) | part}[fields["opc"]] & (1 << bits) - 1
    return value


HALVES = st.sampled_from([0, 0, 0xFFFF, 0xFFFF, 0x1234, 0x00FF, 1])
CONSTANTS = st.one_of(
    st.integers(0, (1 << 64) - 1),
    st.builds(lambda a, b, c, d: a | b << 16 | c << 32 | d << 48, HALVES, HALVES, HALVES, HALVES),
    st.sampled_from([0, (1 << 64) - 1, 0x5555555555555555, 1 << 63]),
)


@settings(max_examples=300)
@given(CONSTANTS, st.booleans())
def test_mov_of_any_constant_is_right_and_short(value: int, wide: bool) -> None:
    bits, register = (64, X0) if wide else (32, W0)
    value &= (1 << bits) - 1
    asm = Assembler()
    asm.mov(register, value)
    code = asm.assemble(0)
    assert run_moves(code, bits) == value
    halves = [value >> shift & 0xFFFF for shift in range(0, bits, 16)]
    by_moves = max(1, min(sum(half != 0 for half in halves), sum(half != 0xFFFF for half in halves)))
    assert len(code) // 4 == (1 if bitmask_immediate(value, bits) else by_moves)


@given(st.integers(-(1 << 63), -1))
def test_mov_of_a_negative_constant(value: int) -> None:
    asm = Assembler()
    asm.mov(X0, value)
    assert run_moves(asm.assemble(0), 64) == value & (1 << 64) - 1


# Labels, data, layout


@given(st.integers(-(1 << 20), (1 << 20) - 1), st.integers(0, 30))
def test_adr_reaches_what_it_names(distance: int, number: int) -> None:
    asm = Assembler()
    asm.adr(X[number], "there")
    base = 1 << 32
    code = asm.assemble(base, {"there": base + distance})
    assert disassemble(code, base)[0].text == f"adr x{number}, #{base + distance:#x}"


@pytest.mark.parametrize(
    ("emit", "low", "high", "step"),
    [
        (lambda a, t: a.b(t), -(1 << 27), (1 << 27) - 4, 4),
        (lambda a, t: a.bl(t), -(1 << 27), (1 << 27) - 4, 4),
        (lambda a, t: a.b_cond(Cond.EQ, t), -(1 << 20), (1 << 20) - 4, 4),
        (lambda a, t: a.cbz(X0, t), -(1 << 20), (1 << 20) - 4, 4),
        (lambda a, t: a.tbz(X0, 63, t), -(1 << 15), (1 << 15) - 4, 4),
        (lambda a, t: a.ldr_literal(X0, t), -(1 << 20), (1 << 20) - 4, 4),
        (lambda a, t: a.adr(X0, t), -(1 << 20), (1 << 20) - 1, 1),
        (lambda a, t: a.adrp(X0, t), -(1 << 32), (1 << 32) - 4096, 4096),
    ],
    ids=["b", "bl", "b.cond", "cbz", "tbz", "ldr", "adr", "adrp"],
)
def test_reach(emit: Callable[[Assembler, str], None], low: int, high: int, step: int) -> None:
    base = 1 << 40
    asm = Assembler()
    emit(asm, "there")
    for distance in (low, 0, high):
        (line,) = disassemble(asm.assemble(base, {"there": base + distance}), base)
        assert line.text.endswith(f"#{base + distance:#x}")
    for distance in (low - step, high + step):
        with pytest.raises(ValueError, match=f"to 'there': the distance is {distance:#x}; it takes {low:#x} to "):
            asm.assemble(base, {"there": base + distance})
    if step == 4:
        with pytest.raises(ValueError, match="in multiples of 4"):
            asm.assemble(base, {"there": base + 2})


def test_data_labels_and_alignment() -> None:
    asm = Assembler()
    asm.word(1, -1)
    asm.quad(-2)
    asm.raw(b"abc")
    asm.align(8)
    asm.label("table")
    asm.quad("table", 3)
    asm.quad("elsewhere")
    code = asm.assemble(0x1000, {"elsewhere": 0x123456789})
    numbers = [int.from_bytes(code[at : at + 8], "little") for at in range(0, len(code), 8)]
    assert numbers == [0xFFFFFFFF_00000001, (1 << 64) - 2, 0x636261, 0x1018 + 3, 0x123456789]
    assert asm.symbols == {"table": 0x18}


def test_included_code_keeps_its_meaning() -> None:
    def part(name: str) -> Assembler:
        inner = Assembler()
        label = Label("local")
        inner.align(16)
        inner.label(name)
        inner.nop()
        inner.label(label)
        inner.cbz(X0, label)
        inner.bl("first")
        return inner

    whole, resolved = Assembler(), Assembler()
    for outer in (whole, resolved):
        outer.nop()
        for name in ("first", "second"):
            inner = part(name)
            if outer is resolved:
                inner.resolve()
            outer.include(inner)
    assert whole.assemble(0x100) == resolved.assemble(0x100)
    expected = "nop|udf #0|udf #0|udf #0|nop|cbz x0, #0x114|bl #0x110|udf #0|nop|cbz x0, #0x124|bl #0x110"
    assert "|".join(line.text for line in disassemble(whole.assemble(0x100), 0x100)) == expected
    assert whole.alignment == 16
    assert whole.offset_of("second") == 0x20


# What an instruction does not take

REFUSED: list[tuple[Emit, str]] = [
    (lambda a: a.add(X0, X1, 4097), "add: imm is 4097; it takes 0 to 4095, or a multiple of 4096 up to 16773120"),
    (lambda a: a.sub(X0, X1, -1), "sub: imm is -1; it takes 0 to 4095"),
    (lambda a: a.add(X0, X1, W2), "add: registers of different width: x0, x1, w2"),
    (lambda a: a.add(XZR, X1, 1), "add: rd is xzr; it takes x0 to x30 or sp"),
    (lambda a: a.adds(SP, X1, 1), "adds: rd is sp; it takes x0 to x30 or xzr"),
    (lambda a: a.add(X0, X1, X2, Shift.ROR, 1), "add: shift is ROR; it takes LSL, LSR or ASR"),
    (lambda a: a.add(X0, X1, X2, Shift.LSL, 64), "add: amount is 64; it takes 0 to 63"),
    (lambda a: a.add(SP, SP, X2, Shift.LSR, 1), "add: with sp, shift is LSR; it takes LSL"),
    (lambda a: a.add(SP, SP, X2, Shift.LSL, 5), "add: amount is 5; it takes 0 to 4"),
    (lambda a: a.add_extended(X0, X1, X2, Extend.UXTW), "add: rm is x2; UXTW to 64 bits takes the other width"),
    (lambda a: a.and_(X0, X1, 5), "and: imm is 0x5; it takes a run of ones, rotated"),
    (lambda a: a.and_(X0, X1, 0), "and: imm is 0x0; it takes a run of ones"),
    (lambda a: a.ands(SP, X1, 1), "ands: rd is sp; it takes x0 to x30 or xzr"),
    (lambda a: a.mov(X0, 1 << 64), "mov: constant is 18446744073709551616; it takes -9223372036854775808 to "),
    (lambda a: a.mov(W0, 1 << 32), "mov: constant is 4294967296; it takes -2147483648 to 4294967295"),
    (lambda a: a.mov(SP, 1), "mov: rd is sp; it takes x0 to x30 or xzr"),
    (lambda a: a.movz(X0, 0x10000), "movz: imm is 65536; it takes 0 to 65535"),
    (lambda a: a.movk(W0, 1, 32), "movk: shift is 32; it takes 0 to 16, a multiple of 16"),
    (lambda a: a.movn(X0, 1, 8), "movn: shift is 8; it takes 0 to 48, a multiple of 16"),
    (lambda a: a.ubfx(X0, X1, 60, 5), "ubfx: width is 5; it takes 1 to 4"),
    (lambda a: a.bfi(W0, W1, 32, 1), "bfi: lsb is 32; it takes 0 to 31"),
    (lambda a: a.lsl(X0, X1, 64), "lsl: imm is 64; it takes 0 to 63"),
    (lambda a: a.extr(W0, W1, W2, 32), "extr: lsb is 32; it takes 0 to 31"),
    (lambda a: a.sxtw(W0, W1), "sxtw: rd is w0; it takes a 64-bit register"),
    (lambda a: a.smaddl(X0, X1, X2, X3), "smaddl: registers are x0, x1, x2, x3; rd and ra have 64 bits"),
    (lambda a: a.crc32(W0, W1, W2, 3), "crc32: size is 3; it takes 1, 2, 4 or 8"),
    (lambda a: a.crc32(W0, W1, W2, 8), "crc32: registers are w0, w1, w2; rd and rn have 32 bits, rm 64 for size 8"),
    (lambda a: a.cset(X0, Cond.AL), "cset: cond is AL; it takes a condition that has an inverse"),
    (lambda a: a.ccmp(X0, 32, 0, Cond.EQ), "ccmp: imm is 32; it takes 0 to 31"),
    (lambda a: a.ccmp(X0, 1, 16, Cond.EQ), "ccmp: nzcv is 16; it takes 0 to 15"),
    (lambda a: a.tbz(W0, 32, "x"), "tbz: bit is 32; it takes 0 to 31"),
    (lambda a: a.br(W0), "br: rn is w0; it takes a 64-bit register"),
    (lambda a: a.svc(-1), "svc: imm is -1; it takes 0 to 65535"),
    (lambda a: a.hint(128), "hint: imm is 128; it takes 0 to 127"),
    (lambda a: a.dsb("all"), "dsb: option is 'all'; it takes oshld, oshst, osh"),
    (lambda a: a.msr_imm("daif", 1), "msr: field is 'daif'; it takes uao, pan, spsel"),
    (lambda a: a.msr_imm("spsel", 2), "msr spsel: imm is 2; it takes 0 to 1"),
    (lambda a: a.mrs(X0, "esr_el9"), "unknown system register 'esr_el9'"),
    (lambda a: a.mrs(W0, "esr_el1"), "mrs: rt is w0; it takes a 64-bit register"),
    (lambda a: a.system("dc everything", X0), "sys: operation is 'dc everything'; it takes dc ivac"),
    (lambda a: a.ldr(X0, W1), "ldr: base is w1; it takes a 64-bit register"),
    (lambda a: a.ldr(X0, XZR), "ldr: base is xzr; it takes x0 to x30 or sp"),
    (lambda a: a.ldr(SP, X0), "ldr: rt is sp; it takes x0 to x30 or xzr"),
    (lambda a: a.ldr(X0, Offset(X1, 32768)), "ldr: offset is 32768; it takes -256 to 255, or 0 to 32760 in multiples"),
    (lambda a: a.ldr(W0, Offset(X1, 257)), "ldr: offset is 257; it takes -256 to 255, or 0 to 16380 in multiples of 4"),
    (lambda a: a.ldr(X0, Post(X1, 256)), "ldr: offset is 256; it takes -256 to 255"),
    (lambda a: a.ldrb(X0, X1), "ldrb: rt is x0; it takes a 32-bit register"),
    (lambda a: a.ldrsw(W0, X1), "ldrsw: rt is w0; it takes a 64-bit register"),
    (lambda a: a.ldr(X0, Indexed(X1, W2)), "ldr: index is w2; UXTX takes the other width"),
    (lambda a: a.ldr(X0, Indexed(X1, W2, Extend.UXTB)), "ldr: extend is UXTB; it takes UXTW, UXTX (LSL), SXTW or SXTX"),
    (lambda a: a.ldp(X0, X1, Offset(X2, 12)), "ldp: offset is 12; it takes -512 to 504, a multiple of 8"),
    (lambda a: a.ldp(X0, X1, Post(X1, 16)), "ldp: rt or rt2 is x1, the base that is written back"),
    (lambda a: a.ldp(X0, W1, X2), "ldp: registers of different width: x0, w1"),
    (lambda a: a.prfm("pldl9keep", X0), "prfm: operation is 'pldl9keep'; it takes pldl1keep"),
    (lambda a: a.ldxr(X0, X1, size=1), "ldxr: size is 1 with x0; it takes 1 or 2 with a 32-bit register, or none"),
    (lambda a: a.stxr(X0, X1, X2), "stxr: rs is x0; it takes a 32-bit register"),
    (lambda a: a.stxr(W1, X1, X2), "stxr: rs is w1, which is another operand too"),
    (lambda a: a.ldxp(X0, X0, X1), "ldxp: rt and rt2 are both x0"),
    (lambda a: a.casp(X1, X2, X3), "casp: rs is x1; it takes a register with an even number"),
    (lambda a: a.atomic("ldsub", X0, X1, X2), "atomic: mnemonic is 'ldsub'; it takes swp"),
    (lambda a: a.atomic("ldaddb", X0, X1, X2), "ldaddb: registers are x0, x1; it takes 32-bit registers"),
    (lambda a: a.align(3), "align: boundary is 3; it takes a power of two"),
    (lambda a: a.word(1 << 32), "word: value is 4294967296; it takes -2147483648 to 4294967295"),
    (lambda a: a.quad(1 << 64), "quad: value is 18446744073709551616"),
    (lambda a: a.b("nowhere"), "b at offset 0x0: there is no label 'nowhere'"),
]


@pytest.mark.parametrize(("emit", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_refuses(emit: Emit, message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the text is compared below
        texts(emit)
    assert message in str(caught.value)


def test_a_label_is_at_one_place() -> None:
    asm, other = Assembler(), Assembler()
    for code in (asm, other):
        code.label("twice")
    with pytest.raises(ValueError, match="label 'twice' is already at offset 0x0"):
        asm.label("twice")
    with pytest.raises(ValueError, match="label 'twice' is already at offset 0x0"):
        asm.include(other)


def test_a_base_that_does_not_fit_the_alignment() -> None:
    asm = Assembler()
    asm.align(2048)
    with pytest.raises(ValueError, match="base is 0x10400; this code needs a multiple of 0x800"):
        asm.assemble(0x10400)
