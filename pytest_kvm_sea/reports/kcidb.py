# SPDX-License-Identifier: GPL-2.0-only
"""A report for KCIDB, the results database of kernel CI systems: JSON, schema 5.3 (PyPI kcidb-io, V05_03 there).

One test of ours is one test of KCIDB; tests of others say nothing of the kernel, and are left out. A simulated run can
not be taken for one of a kernel: its tests belong to a build of their own, which no kernel has, their paths begin with
`simulated`, and their environment says so.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pytest_kvm_sea.reports.files import WholeFile
from pytest_kvm_sea.reports.kcidb_path import paths_of
from pytest_kvm_sea.reports.record import GATE, CollectionError, Outcome, Record, RunEnd, RunStart, TestId

VERSION = {"major": 5, "minor": 3}
SIMULATED_BUILD = "kvm-sea-simulated"
SIMULATED_PATH = "simulated"
MAX_EXCERPT = 16384
"""Characters (maxLength of log_excerpt)."""

_STATUS = {
    Outcome.PASS: "PASS",
    Outcome.XPASS: "PASS",
    # The schema: "the test completed and reported the tested code as faulty". That somebody expected it is in misc;
    # as PASS nobody would see when the defect is gone.
    Outcome.XFAIL: "FAIL",
    Outcome.FAIL: "FAIL",
    # A guest that does not end within its time is what such a test is there to find (kselftest: not ok).
    Outcome.TIMEOUT: "FAIL",
    Outcome.ERROR: "ERROR",
    Outcome.SKIP: "SKIP",
}
_TARGET = re.compile(r"::[^\[]*\[(?:(sim)-|(linux)-(?:mainline|series-v1|follow-up)[-\]])")
"""The id of a test of ours says first what it runs on."""
_LISTS = ("capabilities", "firmware_tables")
SEPARATOR = ", "
"""Between the values of a property that has several."""
_HALF = (MAX_EXCERPT - 100) // 2


@dataclass(frozen=True, slots=True)
class Submitter:
    """Who reports, and on what."""

    origin: str
    """Name of the CI system, `ORIGIN`."""
    build: str | None = None
    """Id in KCIDB of the build of the kernel that is tested, `BUILD`; None where only simulated hosts are."""


class KcidbSink:
    """The sink. The file is written when the run is over."""

    def __init__(self, path: Path, submitter: Submitter) -> None:
        """OSError where the file cannot be written."""
        self._file = WholeFile(path)
        self._submitter = submitter
        self._run = uuid.uuid4().hex
        self._tests: list[TestId] = []
        self._errors: Sequence[CollectionError] = ()
        self._records: list[Record] = []
        self._host = "sim"

    def start(self, run: RunStart) -> None:
        self._host = run.host
        self._file.begin()

    def planned(self, tests: Sequence[TestId], errors: Sequence[CollectionError]) -> None:
        self._tests, self._errors = list(tests), errors

    def started(self, test: TestId) -> None:
        """Nothing to do: what was started and has no result is missing at the end."""

    def finished(self, record: Record) -> None:
        self._records.append(record)

    def end(self, run: RunEnd) -> None:
        objects, problem = self._objects(run)
        report = {"version": VERSION, "checkouts": [], "builds": [], "tests": objects}
        self._file.write(json.dumps(_clean(report), indent=1) + "\n")
        if problem:
            raise OSError(0, problem)

    def abandon(self) -> None:
        """Nothing is open: the file is made at the end."""

    def _objects(self, run: RunEnd) -> tuple[list[dict[str, Any]], str]:
        """All tests as KCIDB wants them, and why some of them are left out."""
        found = self._found(run)
        real = [fields["environment"]["misc"] for _, fields in found if not _is_simulated(fields)]
        problem = self._problem(real)
        if problem:
            found = [(test, fields) for test, fields in found if _is_simulated(fields)]
        origin = self._submitter.origin
        paths = paths_of(test.nodeid for test, _ in found)
        objects = []
        for number, (test, fields) in enumerate(found):
            simulated, path = _is_simulated(fields), paths[test.nodeid]
            objects.append(
                {
                    "id": f"{origin}:kvm-sea-{self._run}-{number}",
                    "origin": origin,
                    "build_id": f"{origin}:{SIMULATED_BUILD}" if simulated else self._submitter.build,
                    "path": f"{SIMULATED_PATH}.{path}" if simulated else path,
                    **fields,
                }
            )
        return objects, problem

    def _found(self, run: RunEnd) -> list[tuple[TestId, dict[str, Any]]]:
        known = {record.test for record in self._records}
        missing = [test for test in self._tests if test not in known]
        return [
            *((record.test, _result(record)) for record in self._records if _host(record.test, record.properties)),
            *((test, _not_run(test, run)) for test in missing if _host(test, {})),
            *((TestId(error.nodeid), _not_collected(error, self._host)) for error in self._errors),
            *([(TestId(GATE), _gate(run.findings, self._host))] if run.findings else ()),
        ]

    def _problem(self, real: Sequence[Mapping[str, Any]]) -> str:
        """What keeps the tests of real hosts out of the report."""
        kernels = sorted({misc["kernel"] for misc in real if "kernel" in misc})
        if real and self._submitter.build is None:
            return "tests of real hosts are left out: no build was named (--kvm-sea-kcidb-build)"
        if len(kernels) > 1:
            return f"tests of real hosts are left out: one build was named, several kernels ran: {', '.join(kernels)}"
        return ""


def _host(test: TestId, properties: Mapping[str, str]) -> str:
    """`sim` or `linux`; empty for a test that is not ours. One whose worker is gone has no properties any more."""
    match = _TARGET.search(test.nodeid)
    return properties.get("kvm_sea_host") or (match and (match[1] or match[2])) or ""


def _is_simulated(fields: Mapping[str, Any]) -> bool:
    return bool(fields["environment"]["misc"]["simulated"])


def _result(record: Record) -> dict[str, Any]:
    host = _host(record.test, record.properties)
    fields: dict[str, Any] = {
        "status": _STATUS[record.outcome],
        "environment": _environment({"kvm_sea_host": host, **record.properties}, record.test.host),
        "misc": _misc(record),
        "duration": max(record.duration, 0.0),
    }
    if record.start:
        fields["start_time"] = datetime.fromtimestamp(record.start, UTC).isoformat()
    comment = record.message or record.reason
    if comment:
        fields["comment"] = comment
    excerpt = _excerpt(record)
    if excerpt:
        fields["log_excerpt"] = excerpt
    return fields


def _misc(record: Record) -> dict[str, Any]:
    misc: dict[str, Any] = {"outcome": record.outcome.value, "node_id": record.test.nodeid}
    if record.outcome in (Outcome.XFAIL, Outcome.XPASS):
        misc["expected_failure"] = record.reason or "no reason was given"
    elif record.reason:
        misc["reason"] = record.reason
    if record.outcome.is_bad:
        misc["phase"] = record.phase
    if record.worker:
        misc["worker"] = record.worker
    if record.subtests:
        misc["subtests"] = [
            {"name": one.name, "outcome": one.outcome.value, "reason": one.reason or one.message}
            for one in record.subtests
        ]
    return misc


def _not_run(test: TestId, run: RunEnd) -> dict[str, Any]:
    why = f"did not run: {run.stopped or 'the run ended before it'}"
    misc = {"outcome": "not run", "node_id": test.nodeid, "reason": why}
    return _missing(misc, why, _environment({"kvm_sea_host": _host(test, {})}, test.host))


def _not_collected(error: CollectionError, host: str) -> dict[str, Any]:
    misc = {"outcome": Outcome.ERROR.value, "node_id": error.nodeid, "reason": "could not be collected"}
    fields = _missing(misc, error.message or "could not be collected", _environment({"kvm_sea_host": host}, ""))
    if error.detail:
        fields["log_excerpt"] = _cut(error.detail)
    return fields


def _gate(findings: Sequence[str], host: str) -> dict[str, Any]:
    """What the gate says of the run as a whole, which is no test's result."""
    text = "\n".join(findings)
    misc = {"outcome": Outcome.FAIL.value, "node_id": GATE, "reason": findings[0]}
    environment = _environment({"kvm_sea_host": host}, "")
    return {"status": "FAIL", "environment": environment, "misc": misc, "log_excerpt": _cut(text)}


def _missing(misc: dict[str, Any], comment: str, environment: dict[str, Any]) -> dict[str, Any]:
    return {"status": "MISS", "environment": environment, "misc": misc, "comment": comment}


def _environment(properties: Mapping[str, str], gateway: str) -> dict[str, Any]:
    misc: dict[str, Any] = {"simulated": properties["kvm_sea_host"] == "sim"}
    for name, value in properties.items():
        if name.startswith("kvm_sea_") and value:
            misc[name.removeprefix("kvm_sea_")] = value
    for name in _LISTS:
        if name in misc:
            misc[name] = misc[name].split(SEPARATOR)
    if gateway:
        misc["gateway"] = gateway
    kernel = f"Linux {misc.get('kernel', 'of a release that is not known')}"
    if misc["simulated"]:
        comment = f"SIMULATED host {misc.get('platform', '')}: no kernel was tested, but a model of {kernel}"
    else:
        comment = f"{misc.get('node', 'a real host')}, {kernel}"
    return {"comment": comment, "misc": misc}


def _excerpt(record: Record) -> str:
    """What is to be read of a test that did not pass: the failure, and then what was captured."""
    if not (record.outcome.is_bad or record.outcome is Outcome.XFAIL):
        return ""
    parts = [record.detail] if record.detail else []
    # Pytest puts the captured text of a failure into its detail where it has one.
    parts += [f"{title}\n{text}" for title, text in record.output.items() if text not in record.detail]
    return _cut("\n".join(parts))


def _cut(text: str) -> str:
    """Both ends of it: the test is named in the first lines, and what failed in the last."""
    if len(text) <= MAX_EXCERPT:
        return text
    left_out = len(text) - 2 * _HALF
    return f"{text[:_HALF]}\n[... {left_out} characters are left out ...]\n{text[-_HALF:]}"


def _clean(value: Any) -> Any:
    """Without what the database cannot store: NUL, and halves of surrogate pairs."""
    if isinstance(value, str):
        return value.replace("\0", "\N{SYMBOL FOR NULL}").encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {_clean(name): _clean(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_clean(one) for one in value]
    return value
