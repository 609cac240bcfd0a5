# SPDX-License-Identifier: GPL-2.0-only
"""Numbers as the kernel reads them."""

from __future__ import annotations

import errno

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pytest_kvm_sea.sim.kernel_text import U64_MAX, kstrtoull, sscanf_hex


@given(st.integers(0, U64_MAX), st.sampled_from(["%d", "0x%x", "0X%X", "0%o"]), st.sampled_from(["", "\n"]))
def test_numbers_of_every_base_are_read(value: int, form: str, end: str) -> None:
    assert kstrtoull((form % value + end).encode()) == value
    assert kstrtoull(("+" + form % value + end).encode()) == value


@given(st.integers(U64_MAX + 1, U64_MAX << 70), st.sampled_from(["%d", "0x%x", "0%o"]))
def test_too_large_is_erange(value: int, form: str) -> None:
    with pytest.raises(OSError, match="64 bits") as refused:
        kstrtoull((form % value).encode())
    assert refused.value.errno == errno.ERANGE


@pytest.mark.parametrize(
    "text",
    [b"", b"\n", b"+", b"-1", b"++1", b" 1", b"1 ", b"1\n\n", b"0x", b"0xg", b"08", b"1_000", b"1.0", b"x1", b"\xb2"],
)
def test_what_is_no_number_is_einval(text: bytes) -> None:
    with pytest.raises(OSError, match="not a number") as refused:
        kstrtoull(text)
    assert refused.value.errno == errno.EINVAL


def test_text_ends_at_nul() -> None:
    assert kstrtoull(b"12\0rubbish") == 12
    assert sscanf_hex(b"12\0fff") == 0x12


@given(st.integers(0, U64_MAX), st.sampled_from(["", "0x", "0X"]), st.sampled_from(["", " ", "\n", "zz", "-", "_1"]))
def test_hexadecimal_is_scanned_up_to_what_it_does_not_know(value: int, prefix: str, rest: str) -> None:
    assert sscanf_hex(f" \t{prefix}{value:x}{rest}".encode()) == value


@given(st.integers(0, 1 << 120))
@example(0x1_0000_0000_0000_0010)
def test_scanning_wraps_at_64_bits(value: int) -> None:
    assert sscanf_hex(f"{value:x}".encode()) == value & U64_MAX


@pytest.mark.parametrize(("text", "value"), [(b"", None), (b"  ", None), (b"zz", None), (b"-1", None), (b"0x", 0)])
def test_scanning_without_a_digit(text: bytes, value: int | None) -> None:
    assert sscanf_hex(text) == value
