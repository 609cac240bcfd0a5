# SPDX-License-Identifier: GPL-2.0-only
"""Which floating-point and SIMD instructions there are: the tables in themselves, and against a disassembler."""

from __future__ import annotations

import random
import subprocess
import sys

import capstone
import pytest

from pytest_kvm_sea.arm64.encodings import ENCODINGS, encode
from pytest_kvm_sea.arm64.simd_encodings import SimdEncoding, encoding_of, simd_encodings
from pytest_kvm_sea.cpu.decoder import decode

_ROWS = simd_encodings()
_SPACE = 3 << 26
_WORDS = 20
"""Of each line of a row."""
_NOT_REGISTERS = tuple(bit for bit in range(10, 32) if not _SPACE >> bit & 1)
_STRIDE = 13
"""One word of so many is compared, of all that differ in bits 31 to 10."""
_NEWER = (
    # Of extensions that the processor does not have, but capstone: FEAT_MOPS, SHA512, SHA3, SM3, SM4, BF16, I8MM, FCMA,
    # FHM, FRINTTS, JSCVT
    *("cpy", "set", "sha512", "eor3", "bcax", "rax1", "xar", "sm3", "sm4", "bf", "smmla", "ummla", "usmmla"),
    *("usdot", "sudot", "fcmla", "fcadd", "fmlal", "fmlsl", "frint32", "frint64", "fjcvtzs"),
)


def _disassembler() -> capstone.Cs:
    return capstone.Cs(capstone.CS_ARCH_ARM64, capstone.CS_MODE_LITTLE_ENDIAN)


def _text(engine: capstone.Cs, word: int) -> str:
    return next(
        (f"{text} {operands}" for _, _, text, operands in engine.disasm_lite(word.to_bytes(4, "little"), 0)), ""
    )


def _words(row: SimdEncoding) -> list[int]:
    """Of each line that gives something, and that others do not take away again."""
    rng = random.Random(row.encoding.name)
    drawn = (rng.getrandbits(32) & ~mask | match for mask, match in row.allocated for _ in range(_WORDS))
    return [word for word in drawn if row.encoding.has(word)]


def _a_pair_into_one_register(row: SimdEncoding, word: int) -> bool:
    """CONSTRAINED UNPREDICTABLE, which capstone refuses to print."""
    fields = row.encoding.decode(word)
    return row.encoding.name == "SIMD_PAIR" and bool(fields["L"]) and fields["Rt"] == fields["Rt2"]


@pytest.mark.parametrize("row", _ROWS, ids=lambda row: row.encoding.name)
def test_a_word_belongs_to_one_row_and_a_disassembler_knows_it(row: SimdEncoding) -> None:
    engine = _disassembler()
    words = _words(row)
    assert len(words) >= _WORDS // 2
    for word in words:
        assert word & _SPACE == _SPACE
        assert [each.encoding.name for each in _ROWS if each.has(word)] == [row.encoding.name]
        assert encoding_of(word) is row
        assert decode(word) is ENCODINGS["FP_SIMD"]
        text = _text(engine, word)
        assert text or _a_pair_into_one_register(row, word), f"{word:08x} is unknown to capstone"
        assert not text.startswith(_NEWER), f"{word:08x} is {text}"


@pytest.mark.parametrize("row", _ROWS, ids=lambda row: row.encoding.name)
def test_with_one_bit_otherwise_it_is_what_a_disassembler_knows(row: SimdEncoding) -> None:
    engine = _disassembler()
    for word in _words(row)[:: _WORDS // 4]:
        for bit in _NOT_REGISTERS:
            near = word ^ 1 << bit
            found, text = encoding_of(near), _text(engine, near)
            is_known = bool(text) and not text.startswith(_NEWER)
            unpredictable = found is not None and _a_pair_into_one_register(found, near)
            assert (found is not None) == (is_known or unpredictable), f"{near:08x} is {text or 'unknown'}"


def test_no_line_of_a_table_is_without_words() -> None:
    rng = random.Random(1)
    for row in _ROWS:
        for mask, match in row.allocated:
            words = (rng.getrandbits(32) & ~mask | match for _ in range(200))
            assert any(map(row.has, words)), f"{row.encoding.name}: {match:08x} of {mask:08x}"


def test_what_is_unallocated_is_unknown_to_a_disassembler() -> None:
    """Bits 31 to 10 decide, but for what FCMP and FMOV have below. One in `_STRIDE` of their values is looked at."""
    engine, rng = _disassembler(), random.Random(2)
    unallocated = 0
    for number in range(rng.randrange(_STRIDE), 1 << 20, _STRIDE):
        word = (number >> 16) << 28 | _SPACE | (number & 0xFFFF) << 10 | rng.getrandbits(10)
        if encoding_of(word) is None:
            unallocated += 1
            assert decode(word) is None
            text = _text(engine, word)
            assert not text or text.startswith(_NEWER), f"{word:08x} is {text}"
    assert unallocated > (1 << 19) // _STRIDE


@pytest.mark.parametrize(
    ("word", "row"),
    [
        (0x1E604000, "FP_ONE_SOURCE"),
        (0x1E634000, ""),  # BFCVT
        (0x9E660000, "FP_MOVE"),
        (0x1E660000, ""),
        (0x9EAE0000, "FP_MOVE"),  # of the upper half
        (0x4E083C00, "VECTOR_COPY"),  # UMOV of a doubleword
        (0x0F00FC00, "VECTOR_IMMEDIATE"),  # FMOV of half precision
        (0x3DC00000, "SIMD_UIMM"),
        (0x7DC00000, ""),  # 16 bytes are opc=1x, size=00 alone
        (0x4E284800, "AES"),
        (0xCE608000, ""),  # SHA512H
        (0x0E70C800, ""),  # FMAXNMV of half precision with bit 22
        (0x2F00FC00, ""),
        (0xFFFFFFFF, ""),
        (0x04200000, ""),  # SVE, of another space
    ],
)
def test_examples(word: int, row: str) -> None:
    found = encoding_of(word)
    assert (found.encoding.name if found else "") == row


def test_what_is_unallocated_is_not_encoded() -> None:
    assert encode("FP_SIMD", high=1, low=0x2604000) == 0x1E604000
    with pytest.raises(ValueError, match="FP_SIMD: 0xffffffff is not an instruction \\(unallocated\\)"):
        encode("FP_SIMD", high=15, low=(1 << 26) - 1)


def test_the_tables_are_imported_when_they_are_needed() -> None:
    script = (
        "import sys; from pytest_kvm_sea.cpu.decoder import decode\n"
        "for word in (0xD503201F, 0xFFFFFFFF): decode(word); print('pytest_kvm_sea.arm64.simd_vector' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["False", "True"]
