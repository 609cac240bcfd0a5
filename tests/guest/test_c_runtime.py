# SPDX-License-Identifier: GPL-2.0-only
"""The functions of kvm_sea_runtime.S, called one by one on a simulated processor, against Python's arithmetic."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pytest_kvm_sea.addresses import GuestVA
from pytest_kvm_sea.guest.program import GuestProgram
from pytest_kvm_sea.platforms.loader import load_platform
from pytest_kvm_sea.sim.host import SimHost
from pytest_kvm_sea.vmm.exits import MmioExit
from pytest_kvm_sea.vmm.vcpu import Vcpu
from pytest_kvm_sea.vmm.vm import Vm

EXECUTABLE = Path(__file__).parents[2] / "fixtures/elf/exceptions.elf"
BITS = 128
MODULUS = 1 << BITS
WORD = (1 << 64) - 1
WIDE = st.integers(0, MODULUS - 1) | st.builds(
    lambda bit, offset: (1 << bit) + offset & MODULUS - 1, st.integers(0, BITS), st.integers(-2, 2)
)
SIZE = 24
"""Bytes of memory to move and to compare."""
quickly = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def vcpu() -> Iterator[Vcpu]:
    host = SimHost(load_platform("ampereone"))
    with Vm(host) as vm:
        vm.load(GuestProgram.from_elf(EXECUTABLE))
        yield vm.add_vcpu()
    host.close()


def call(vcpu: Vcpu, name: str, *arguments: int) -> tuple[int, int]:
    """Call a function; x0 and x1 afterwards. It returns to where x0 is told to the VMM."""
    for number, argument in enumerate(arguments):
        vcpu.set_reg(f"x{number}", argument)
    vcpu.set_reg("x30", vcpu.vm.symbol("kvm_sea_ended"))
    vcpu.set_reg("pc", vcpu.vm.symbol(name))
    assert isinstance(vcpu.run(), MmioExit)
    vcpu._complete_io()
    return vcpu.get_reg("x0"), vcpu.get_reg("x1")


def wide_call(vcpu: Vcpu, name: str, *arguments: int) -> int:
    low, high = call(vcpu, name, *(half for number in arguments for half in (number & WORD, number >> 64 & WORD)))
    return high << 64 | low


def signed(number: int) -> int:
    return number - MODULUS if number >> BITS - 1 else number


def truncated(left: int, right: int) -> int:
    """The quotient as C has it."""
    quotient = abs(left) // abs(right)
    return quotient if (left < 0) == (right < 0) else -quotient


@quickly
@given(left=WIDE, right=WIDE.filter(bool))
@example(left=MODULUS - 1, right=1)
@example(left=MODULUS - 1, right=MODULUS - 1)
@example(left=MODULUS - 2, right=MODULUS - 1)
@example(left=1 << 127, right=3)
def test_division(vcpu: Vcpu, left: int, right: int) -> None:
    assert wide_call(vcpu, "__udivti3", left, right) == left // right
    assert wide_call(vcpu, "__umodti3", left, right) == left % right
    quotient = truncated(signed(left), signed(right))
    assert wide_call(vcpu, "__divti3", left, right) == quotient % MODULUS
    assert wide_call(vcpu, "__modti3", left, right) == (signed(left) - quotient * signed(right)) % MODULUS


@quickly
@given(number=WIDE, by=st.integers(0, BITS - 1))
@example(number=MODULUS - 1, by=0)
@example(number=1 << 127 | 1, by=64)
@example(number=1 << 127 | 1, by=63)
def test_shifts(vcpu: Vcpu, number: int, by: int) -> None:
    assert wide_call(vcpu, "__ashlti3", number, by) == (number << by) % MODULUS
    assert wide_call(vcpu, "__lshrti3", number, by) == number >> by
    assert wide_call(vcpu, "__ashrti3", number, by) == (signed(number) >> by) % MODULUS


@quickly
@given(number=st.integers(0, WORD))
@example(number=WORD)
@example(number=0)
def test_counting_bits(vcpu: Vcpu, number: int) -> None:
    assert call(vcpu, "__popcountdi2", number)[0] & 0xFFFF_FFFF == number.bit_count()
    assert call(vcpu, "__paritydi2", number)[0] & 0xFFFF_FFFF == number.bit_count() % 2


@quickly
@given(
    data=st.binary(min_size=SIZE, max_size=SIZE),
    start=st.integers(0, SIZE),
    to=st.integers(0, SIZE),
    size=st.integers(0, SIZE),
    byte=st.integers(0, 255),
)
def test_memory(vcpu: Vcpu, data: bytes, start: int, to: int, size: int, byte: int) -> None:
    size = min(size, SIZE - start, SIZE - to)
    base = GuestVA(vcpu.vm.symbol("kvm_sea_stack_top") - 0x1000)
    expected = bytearray(data)

    def check(name: str, *arguments: int) -> None:
        vcpu.vm.write(base, data)
        assert call(vcpu, name, *arguments)[0] == base + to, "it returns where it has written"
        assert vcpu.vm.read(base, SIZE) == expected, name

    expected[to : to + size] = data[start : start + size]
    check("memmove", base + to, base + start, size)
    if start + size <= to or to + size <= start:
        check("memcpy", base + to, base + start, size)
    expected = bytearray(data)
    expected[to : to + size] = bytes([byte]) * size
    check("memset", base + to, byte | 0xAB00, size)


@quickly
@given(left=st.binary(max_size=8), change=st.integers(0, 7), byte=st.integers(0, 255))
def test_comparison(vcpu: Vcpu, left: bytes, change: int, byte: int) -> None:
    right = bytearray(left)
    right[change : change + 1] = bytes([byte])[: len(left) - change] if change < len(left) else b""
    base = GuestVA(vcpu.vm.symbol("kvm_sea_stack_top") - 0x1000)
    vcpu.vm.write(base, left + right)
    found = call(vcpu, "memcmp", base, base + len(left), len(left))[0] & 0xFFFF_FFFF
    sign = 0 if found == 0 else -1 if found >> 31 else 1
    assert sign == (left > right) - (left < right)
