# SPDX-License-Identifier: GPL-2.0-only
"""Known defects are strict xfails."""

from __future__ import annotations

import re

import pytest

from pytest_kvm_sea.expectations import KNOWN_DEFECTS, known_defect

DEFECT = "mainline-fnv"


def test_a_host_with_the_defect_fails_as_expected() -> None:
    with pytest.raises(pytest.xfail.Exception, match=r"^\[mainline-fnv\] mainline KVM never sets FnV"):  # noqa: SIM117
        with known_defect(DEFECT, when=True):
            raise AssertionError


def test_a_defect_that_is_gone_is_a_failure() -> None:
    with (
        pytest.raises(pytest.fail.Exception, match=r"^\[mainline-fnv\] unexpectedly passed \(strict\): mainline KVM"),
        known_defect(DEFECT, when=True),
    ):
        pass


def test_a_host_without_the_defect_is_judged_as_ever() -> None:
    with known_defect(DEFECT, when=False):
        pass
    with pytest.raises(AssertionError, match="wrong"), known_defect(DEFECT, when=False):
        raise AssertionError("wrong")


class OtherError(Exception):
    pass


@pytest.mark.parametrize("when", [True, False])
def test_what_is_not_an_assertion_passes_through(when: bool) -> None:
    with pytest.raises(OtherError), known_defect(DEFECT, when=when):
        raise OtherError
    with pytest.raises(pytest.skip.Exception), known_defect(DEFECT, when=when):
        pytest.skip("later")


def test_the_caller_says_what_an_assertion_is() -> None:
    with pytest.raises(pytest.xfail.Exception), known_defect(DEFECT, when=True, raises=(AssertionError, OtherError)):
        raise OtherError


def test_an_unknown_defect_is_an_error() -> None:
    with pytest.raises(KeyError, match="no-such"), known_defect("no-such", when=False):
        pass


@pytest.mark.parametrize("defect_id", KNOWN_DEFECTS)
def test_every_defect_has_a_reference(defect_id: str) -> None:
    defect = KNOWN_DEFECTS[defect_id]
    assert defect.id == defect_id
    # A mail that describes it, or the function of the kernel that does it.
    assert re.fullmatch(r"https://lore\.kernel\.org/\S+@\S+/|[a-z0-9_/]+\.[ch] \w+", defect.link)
    assert str(defect) == f"[{defect_id}] {defect.reason}; {defect.link}"


KNOWN_TO_FAIL = """
    from pytest_kvm_sea.expectations import known_defect

    def test_it(kvm_sea_target):
        with known_defect("mainline-fnv", when=True):
            assert kvm_sea_target.name == "the assertion that fails"
"""


@pytest.mark.parametrize(
    ("options", "outcome", "told"),
    [((), "xfailed", False), (("--xfail-tb",), "xfailed", True), (("--runxfail",), "failed", True)],
)
def test_the_assertion_is_told_to_those_who_ask(
    pytester: pytest.Pytester, options: tuple[str, ...], outcome: str, told: bool
) -> None:
    pytester.makepyfile(KNOWN_TO_FAIL)
    run = pytester.inline_run("--kvm-sea-platform=ampereone", "-p", "no:cacheprovider", *options)
    (report,) = [one for one in run.getreports("pytest_runtest_logreport") if one.when == "call"]
    assert ("xfailed" if hasattr(report, "wasxfail") else report.outcome) == outcome
    assert ("the assertion that fails" in str(report.longrepr)) is told
