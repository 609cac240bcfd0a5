# SPDX-License-Identifier: GPL-2.0-only
"""The causes of a SIGBUS are told apart."""

from __future__ import annotations

import signal

import pytest

from pytest_kvm_sea.addresses import HostVA
from pytest_kvm_sea.hosts.contract import Sigbus
from pytest_kvm_sea.ras import sigbus

ADDRESS = HostVA(0xFFFF_4123_4000)

# siginfo: what the text has to say, what it must not say
TEXTS = [
    (
        Sigbus(4, ADDRESS, 12),
        ["BUS_MCEERR_AR", "0xffff41234000", "4 KiB", "APEI claimed", "offline before"],
        ["early kill"],
    ),
    (Sigbus(4, ADDRESS, 30), ["1 GiB lost"], []),
    (Sigbus(4, ADDRESS, 0), ["0xffff41234000:"], ["lost"]),
    (Sigbus(5, ADDRESS, 21), ["BUS_MCEERR_AO", "2 MiB", "early kill", "no thread has consumed"], ["APEI claimed"]),
    (
        Sigbus(3, ADDRESS),
        ["BUS_OBJERR", "the VMM itself", "do_sea", "0xffff41234000"],
        ["claimed the guest's SEA", "lost"],
    ),
    (Sigbus(2, ADDRESS), ["BUS_ADRERR", "no memory error"], ["poison", "APEI"]),
    (Sigbus(1, ADDRESS), ["BUS_ADRALN", "no memory error"], ["APEI"]),
    (Sigbus(0x80, HostVA(0)), ["SI_KERNEL", "APEI claimed", "could not act"], ["at 0x0", "lost"]),
    (Sigbus(0, HostVA(0)), ["SI_USER", "kill(2)"], ["at 0x0"]),
    (Sigbus(99, HostVA(0)), ["si_code 0x63", "not known to give"], ["at 0x0"]),
]


@pytest.mark.parametrize(("arrived", "present", "absent"), TEXTS)
def test_explain(arrived: Sigbus, present: list[str], absent: list[str]) -> None:
    text = sigbus.explain(arrived)
    assert [each for each in present if each not in text] == []
    assert [each for each in absent if each in text] == []


def test_every_named_code_has_a_cause_of_its_own() -> None:
    texts = {sigbus.explain(Sigbus(code, HostVA(0))).partition(": ")[2] for code in sigbus.NAMES}
    assert len(texts) == len(sigbus.NAMES)
    assert not any("not known to give" in text for text in texts)


def test_names() -> None:
    assert sigbus.name(4) == "BUS_MCEERR_AR"
    assert sigbus.name(-60) == "si_code -0x3c"
    assert signal.SIGBUS.name in sigbus.explain(Sigbus(4, ADDRESS))
