# SPDX-License-Identifier: GPL-2.0-only
"""Test ids, marks, and what reports say about a test's target."""

from __future__ import annotations

import pytest

TWO = ("--kvm-sea-platform=ampereone", "--kvm-sea-platform=neoverse-v2")


def collected(pytester: pytest.Pytester, *arguments: str) -> list[str]:
    result = pytester.runpytest_inprocess("--collect-only", "-q", *arguments)
    return [line.partition("::")[2] for line in result.outlines if "::" in line]


def test_ids_start_with_the_target_whatever_else_a_test_is_parametrised_over(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
        import pytest

        @pytest.fixture(params=["p", "q"])
        def letter(request):
            return request.param

        @pytest.fixture
        def host(kvm_sea_target):
            return kvm_sea_target

        def pytest_generate_tests(metafunc):
            if "number" in metafunc.fixturenames:
                metafunc.parametrize("number", [1, 2])
        """
    )
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.parametrize("size", [8])
        @pytest.mark.parametrize("access", ["load", "store"])
        class TestAll:
            def test_x(self, letter, number, size, access, host): ...
        """
    )
    found = collected(pytester, *TWO)
    assert len(found) == 2 * 2 * 2 * 2
    assert {name.partition("[")[2].removesuffix("]").split("-mainline-")[0] for name in found} == {
        "sim-ampereone",
        "sim-neoverse-v2",
    }


def test_the_selftests_are_found_from_any_directory(pytester: pytest.Pytester) -> None:
    found = collected(pytester, "--pyargs", "pytest_kvm_sea.selftests", "--kvm-sea-platform=ampereone")
    assert {name.partition("[")[0] for name in found} >= {"test_sea_to_user"}
    assert all("[sim-ampereone-mainline" in name for name in found)


def test_a_test_that_uses_no_fixture_of_ours_is_left_alone(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_x(): ...\ndef test_y(kvm_sea_target): ...")
    assert collected(pytester, *TWO) == [
        "test_x",
        "test_y[sim-ampereone-mainline]",
        "test_y[sim-neoverse-v2-mainline]",
    ]


def test_the_mark_restricts_to_platforms(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        pytestmark = pytest.mark.kvm_sea_platforms("ampereone")

        def test_module(kvm_sea_target): ...

        @pytest.mark.kvm_sea_platforms("neoverse-v2", "no-ras")
        def test_closest(kvm_sea_target): ...
        """
    )
    assert collected(pytester, *TWO) == [
        "test_module[sim-ampereone-mainline]",
        "test_closest[sim-neoverse-v2-mainline]",
    ]


@pytest.mark.parametrize(
    ("argument", "test_id", "reason"),
    [
        (
            "--kvm-sea-platform=ampereone",
            "sim-ampereone-mainline",
            "[platform] the test runs on no-ras, mine only; --kvm-sea-platform no-ras --kvm-sea-platform mine",
        ),
        (
            "--kvm-sea-host=linux",
            "linux-mainline",
            "[platform] the test runs on the simulated no-ras, mine only; --kvm-sea-host sim",
        ),
    ],
)
def test_a_test_without_a_platform_is_skipped_aloud(
    pytester: pytest.Pytester, argument: str, test_id: str, reason: str
) -> None:
    pytester.makepyfile(
        "import pytest\n@pytest.mark.kvm_sea_platforms('no-ras', 'mine')\ndef test_x(kvm_sea_target): ..."
    )
    result = pytester.runpytest_inprocess("-vv", argument)
    result.assert_outcomes(skipped=1)
    assert f"test_x[{test_id}]" in result.stdout.str()
    assert f"1 skipped  {reason}  (" in result.stdout.str()


def test_the_mark_tries_platforms_once_that_are_alike(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        pytestmark = pytest.mark.kvm_sea_distinct("kernel.release", "cpu.sea_far")

        def test_module(kvm_sea_target): ...

        @pytest.mark.kvm_sea_distinct("kernel")
        def test_closest(kvm_sea_target): ...

        @pytest.mark.kvm_sea_platforms("locked-down", "apei-claims")
        def test_both(kvm_sea_target): ...
        """
    )
    names = ("ampereone", "locked-down", "neoverse-v2", "apei-claims")
    assert collected(pytester, *(f"--kvm-sea-platform={name}" for name in names)) == [
        "test_module[sim-ampereone-mainline]",
        "test_module[sim-neoverse-v2-mainline]",
        "test_closest[sim-ampereone-mainline]",
        "test_closest[sim-locked-down-mainline]",
        "test_both[sim-locked-down-mainline]",
    ]
    assert collected(pytester, "--kvm-sea-platform=apei-claims", "-k", "test_module") == [
        "test_module[sim-apei-claims-mainline]"
    ]
    assert collected(pytester, "--kvm-sea-host=linux", "-k", "test_module") == ["test_module[linux-mainline]"]


MISUSE = {
    "unknown requirement": (
        "kvm_sea_requires('einj-tabel')",
        "kvm_sea_target",
        "::test_x: mark kvm_sea_requires: unknown requirement 'einj-tabel'; nearest valid requirement: einj-table; "
        "valid requirements: arm64, kvm, ras, sea-to-user,",
    ),
    "not a name": ("kvm_sea_requires(1)", "kvm_sea_target", "mark kvm_sea_requires: unknown requirement 1; valid"),
    "no name": ("kvm_sea_requires()", "kvm_sea_target", "mark kvm_sea_requires: names no requirement"),
    "keyword": ("kvm_sea_requires('kvm', how=1)", "kvm_sea_target", "mark kvm_sea_requires: takes names only"),
    "no platform": ("kvm_sea_platforms()", "kvm_sea_target", "mark kvm_sea_platforms: takes the names of platforms"),
    "not a platform": (
        "kvm_sea_platforms(7)",
        "kvm_sea_target",
        "mark kvm_sea_platforms: takes the names of platforms",
    ),
    "no key": ("kvm_sea_distinct()", "kvm_sea_target", "mark kvm_sea_distinct: takes keys of a platform's file"),
    "not a key": ("kvm_sea_distinct('cpu.rass')", "kvm_sea_target", "mark kvm_sea_distinct: takes keys of a platform"),
    "key is no text": ("kvm_sea_distinct(7)", "kvm_sea_target", "mark kvm_sea_distinct: takes keys of a platform's"),
    "mark without the fixture": (
        "kvm_sea_requires('kvm')",
        "",
        "::test_x: mark kvm_sea_requires: the test does not use the fixture kvm_sea_target, so the mark has no effect",
    ),
}


@pytest.mark.parametrize("case", MISUSE)
def test_a_misused_mark_is_a_usage_error(pytester: pytest.Pytester, case: str) -> None:
    mark, fixture, message = MISUSE[case]
    pytester.makepyfile(f"import pytest\n@pytest.mark.{mark}\ndef test_x({fixture}): ...\ndef test_y(): ...")
    result = pytester.runpytest_inprocess(*TWO)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert message in result.stderr.str()
    assert result.stderr.str().count(message) == 1
    assert "Traceback" not in result.stderr.str()


def test_a_misused_mark_is_told_under_xdist(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("import pytest\n@pytest.mark.kvm_sea_requires('kvn')\ndef test_x(kvm_sea_target): ...")
    result = pytester.runpytest_inprocess("-n", "1", *TWO)
    assert result.ret != pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["*::test_x: mark kvm_sea_requires: unknown requirement 'kvn'; nearest *: kvm; *"])
    result.stdout.no_fnmatch_line("*INTERNALERROR*")


def test_all_marks_are_registered(pytester: pytest.Pytester) -> None:
    text = pytester.runpytest_inprocess("--markers").stdout.str()
    assert "@pytest.mark.kvm_sea_requires(*names):" in text
    assert "@pytest.mark.kvm_sea_platforms(*names):" in text
    assert "@pytest.mark.kvm_sea_distinct(*keys):" in text


def test_reports_say_where_a_test_ran(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_x(kvm_sea_target): ...\ndef test_y(): ...")
    pytester.runpytest_inprocess("--junit-xml=r.xml", "--kvm-sea-platform=series-v1")
    text = (pytester.path / "r.xml").read_text()
    for name, value in (("host", "sim"), ("platform", "series-v1"), ("revision", "series-v1")):
        # Of the test, and of the suite.
        assert text.count(f'<property name="kvm_sea_{name}" value="{value}"') == 2
