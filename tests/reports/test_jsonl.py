# SPDX-License-Identifier: GPL-2.0-only
"""JSON lines: what is written can be read, also after a crash at any byte, and whatever a guest has said."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_kvm_sea.reports.jsonl import LIMIT, JsonLines, clean
from pytest_kvm_sea.reports.jsonl_reader import JsonLinesError, RunFile, read
from pytest_kvm_sea.reports.record import CollectionError, Outcome, Record, RunEnd, RunStart, Subtest, TestId

START = RunStart(1.5, "0.1.0", "sim", ("-k", "x"), {"sim-a-mainline": {"kvm_sea_host": "sim"}})
END = RunEnd(9.5, 1, "", findings=("one",))
A, B, C = (TestId(f"test_x.py::test_{name}") for name in "abc")

TEXT = st.text(max_size=40)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
TEXTS = st.dictionaries(TEXT, TEXT, max_size=3)
SUBTESTS = st.builds(Subtest, TEXT, st.sampled_from(Outcome), TEXT, TEXT)
TIMES = st.floats(0, 1e10)
RECORDS = st.builds(
    Record,
    st.builds(TestId, st.text(min_size=1, max_size=40), TEXT),
    st.sampled_from(Outcome),
    phase=st.sampled_from(["setup", "call", "teardown", "collect", "crash"]),
    reason=TEXT,
    message=TEXT,
    detail=TEXT,
    output=TEXTS,
    start=TIMES,
    duration=TIMES,
    properties=TEXTS,
    subtests=st.lists(SUBTESTS, max_size=3).map(tuple),
    worker=TEXT,
    story=st.none() | st.dictionaries(TEXT, JSON, max_size=4),
)


def write(path: Path, *records: Record, end: RunEnd | None = END, earlier: RunFile | None = None) -> Path:
    """A file of a run with these results; without an end, as a process leaves it that is killed."""
    sink = JsonLines(path, earlier, START if earlier else None)
    sink.start(START)
    sink.planned([record.test for record in records], [])
    for record in records:
        sink.started(record.test)
        sink.finished(record)
    if end is None:
        sink.abandon()
    else:
        sink.end(end)
    return path


def whole(path: Path) -> RunFile:
    run = read(path)
    assert run is not None
    return run


@settings(max_examples=50)
@given(records=st.lists(RECORDS, max_size=4, unique_by=lambda record: record.test))
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, records: list[Record]) -> None:
    path = write(tmp_path_factory.mktemp("jsonl") / "log", *records)
    run = whole(path)
    assert run.start == START
    assert run.planned == tuple(record.test for record in records)
    assert run.records == tuple(records)
    assert (run.end, dict(run.running), run.unfinished) == (END, {}, ())
    assert run.size == path.stat().st_size


def test_collection_errors_and_start(tmp_path: Path) -> None:
    start = replace(START, host="linux", machine="box 7.3.4 #1")
    error = CollectionError("test_y.py", "SyntaxError", "line 1")
    sink = JsonLines(tmp_path / "log")
    sink.start(start)
    sink.planned([A, TestId("x", "gw1")], [error])
    sink.abandon()
    run = whole(tmp_path / "log")
    assert (run.start, run.planned, run.errors) == (start, (A, TestId("x", "gw1")), (error,))


HOSTILE = {
    "controls": "".join(map(chr, range(0x20))) + "\x7f\x80\x9b\u2028\u2029\ufeff",
    "lone surrogates": "a\ud800b\udc80",
    "beyond the BMP": "\U0001f600",
    "long": "x" * (1 << 20) + "end",
}


@pytest.mark.parametrize("case", HOSTILE)
def test_whatever_the_guest_says_is_one_line_of_json(tmp_path: Path, case: str) -> None:
    text = HOSTILE[case]
    story = {"console": [text], text[:9]: {"deep": (text, float("nan"))}}
    path = write(tmp_path / "log", Record(A, Outcome.FAIL, message=text, output={"out": text}, story=story))
    lines = path.read_bytes().decode("ascii").split("\n")
    assert len(lines) == 6
    assert lines.pop() == ""
    for line in lines:
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
        assert "\\ud800b" not in line.replace("\\\\ud800b", "")  # a text of six characters, and no surrogate
    (record,) = whole(path).records
    assert record.message.startswith(clean(text)[:100])
    assert record.message == record.output["out"] == (record.story or {})["console"][0]


def test_a_long_text_is_cut_in_the_middle_and_says_so(tmp_path: Path) -> None:
    text = "".join(f"{number:8}" for number in range((LIMIT + 80) // 8))
    long_name = TestId("test_x.py::test[" + "y" * (2 * LIMIT) + "]")
    exact = text[:LIMIT]
    path = write(tmp_path / "log", Record(A, Outcome.FAIL, message=text, detail=exact), Record(long_name, Outcome.PASS))
    cut, named = whole(path).records
    assert named.test == long_name
    assert cut.detail == exact
    assert cut.message.startswith(text[: LIMIT // 2])
    assert cut.message.endswith(text[-LIMIT // 2 :])
    assert f"80 of {len(text)} characters were cut" in cut.message


def test_a_crash_at_any_byte_loses_no_whole_line(tmp_path: Path) -> None:
    results = [Record(test, Outcome.PASS, message="é\n") for test in (A, B)]
    data = write(tmp_path / "log", *results).read_bytes()
    torn = tmp_path / "torn"
    for size in range(len(data) + 1):
        torn.write_bytes(data[:size])
        lines = data[:size].count(b"\n")
        run = read(torn)
        if lines == 0:
            assert run is None
            continue
        assert run is not None
        assert run.size == data.rfind(b"\n", 0, size) + 1
        assert len(run.planned) == (2 if lines >= 2 else 0)
        assert list(run.records) == results[: max(lines - 2, 0) // 2]
        assert list(run.running) == {3: [A], 5: [B]}.get(lines, [])
        assert run.is_over == (size == len(data))


def test_a_test_that_ran_again_has_its_last_result(tmp_path: Path) -> None:
    path = write(tmp_path / "log", Record(A, Outcome.PASS), end=None)
    write(path, Record(A, Outcome.FAIL), Record(B, Outcome.PASS), earlier=whole(path))
    assert {record.test: record.outcome for record in whole(path).records} == {A: Outcome.FAIL, B: Outcome.PASS}


@pytest.mark.parametrize("tail", [b'{"event":"resu', b"\0" * 4096, b"\0" * 8 + b"\n", b"[1]\n", b"\xff\xfe"])
def test_a_torn_tail_is_cut_when_the_file_is_gone_on_with(tmp_path: Path, tail: bytes) -> None:
    path = write(tmp_path / "log", Record(A, Outcome.PASS), end=None)
    before = path.read_bytes()
    path.write_bytes(before + tail)
    earlier = whole(path)
    assert earlier.size == len(before)
    write(path, *earlier.records, Record(B, Outcome.PASS), earlier=earlier)
    assert path.read_bytes().startswith(before + b'{"event":"resume"')
    run = whole(path)
    # What the file has is not repeated.
    assert path.read_bytes().count(b'"event":"result"') == 2
    assert [(record.test, record.outcome) for record in run.records] == [(A, Outcome.PASS), (B, Outcome.PASS)]
    assert run.end == END


DOCS = Path(__file__).parents[2] / "docs/json-lines.md"


def test_the_page_names_every_key(tmp_path: Path) -> None:
    texts = {"a": "b"}
    full = Record(
        A,
        Outcome.FAIL,
        "call",
        "r",
        "m",
        "d",
        texts,
        1,
        1,
        texts,
        (Subtest("s", Outcome.PASS),),
        "gw0",
        {"target": "x"},
    )
    write(tmp_path / "log", end=None)
    path = write(tmp_path / "log", full, earlier=whole(tmp_path / "log"))
    written = {event.pop("event"): set(event) for event in map(json.loads, path.read_text().splitlines())}
    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", DOCS.read_text(), re.MULTILINE)
    listed = {event: set(re.findall("`(\\w+)`", keys)) for event, keys in rows}
    listed["resume"] = listed["start"]
    assert written == listed


def test_the_example_of_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "run.jsonl", Record(A, Outcome.PASS), Record(B, Outcome.SKIP))
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    exec(example, {})
    assert capsys.readouterr().out.splitlines() == ["pass test_x.py::test_a", "skip test_x.py::test_b", "over"]


def test_every_event_is_in_the_file_when_the_call_returns(tmp_path: Path) -> None:
    path = tmp_path / "log"
    sink = JsonLines(path)
    calls: list[Any] = [
        lambda: sink.start(START),
        lambda: sink.planned([A], []),
        lambda: sink.started(A),
        lambda: sink.finished(Record(A, Outcome.PASS)),
        lambda: sink.end(END),
    ]
    for number, call in enumerate(calls, 1):
        call()
        lines = path.read_text().splitlines()
        assert len(lines) == number
    assert [json.loads(line)["event"] for line in lines] == ["start", "planned", "started", "result", "end"]


@pytest.mark.parametrize(("host", "synced"), [("linux", 6), ("sim", 1)])  # the last line always
def test_on_a_real_host_every_line_is_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str, synced: int
) -> None:
    calls: list[int] = []
    directories: list[int] = []
    monkeypatch.setattr(os, "fdatasync", calls.append)
    monkeypatch.setattr(os, "fsync", lambda file: directories.append(os.fstat(file).st_ino))
    sink = JsonLines(tmp_path / "log")
    sink.start(replace(START, host=host))
    sink.planned([A], [])
    sink.started(A)
    sink.finished(Record(A, Outcome.PASS))
    sink.end(END)
    assert len(calls) == synced
    assert directories == ([tmp_path.stat().st_ino] if host == "linux" else [])


def test_what_is_there_stays_until_the_run_begins(tmp_path: Path) -> None:
    path = write(tmp_path / "log", Record(A, Outcome.PASS))
    before = path.read_bytes()
    JsonLines(path).abandon()  # a usage error elsewhere
    assert path.read_bytes() == before
    write(path, Record(B, Outcome.PASS))
    assert [record.test for record in whole(path).records] == [B]


def test_two_runs_do_not_write_one_file(tmp_path: Path) -> None:
    first = JsonLines(tmp_path / "log")
    with pytest.raises(OSError, match="another run is writing it"):
        JsonLines(tmp_path / "log")
    first.abandon()
    JsonLines(tmp_path / "log").abandon()


def test_a_short_write_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda file, data: real(file, bytes(data)[:7]))
    assert whole(write(tmp_path / "log", Record(A, Outcome.PASS))).end == END


STARTS = '{"event":"start","version":1,"time":1,"plugin":"0","host":"sim","command":[],"targets":{},"machine":""}\n'
WRONG = {
    "another program's": ("hello\nworld\n", ":1: not a line of JSON, and not the last one"),
    "torn in the middle": (STARTS + '{"event":\n' + STARTS, ":2: not a line of JSON, and not the last one"),
    "JSON of another kind": ('{"a": 1}\n', ":1: the first line is not the start of a run"),
    "no start": ('{"event": "planned"}\n', ":1: the first line is not the start of a run"),
    "a later version": (STARTS.replace('version":1', 'version":2'), ":1: version 2 of the format; this plugin reads"),
    "a later version goes on": (STARTS + '{"event":"resume","version":"x"}\n', ":2: version 'x' of the format"),
    "a key is missing": (STARTS + '{"event":"started","nodeid":"x"}\n', ":2: not what version 1 has in started"),
    "no outcome": (
        STARTS + '{"event":"result","nodeid":"x","outcome":"good"}\n',
        ":2: not what version 1 has in result",
    ),
    "no list": (STARTS + '{"event":"planned","tests":7,"errors":[]}\n', ":2: not what version 1 has in planned"),
    "no objects": (STARTS + '{"event":"planned","tests":["x"],"errors":[]}\n', ":2: not what version 1 has in planned"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said_with_its_line(tmp_path: Path, case: str) -> None:
    text, message = WRONG[case]
    (tmp_path / "log").write_text(text)
    with pytest.raises(JsonLinesError) as caught:
        read(tmp_path / "log")
    assert str(caught.value).startswith(f"{tmp_path / 'log'}{message}")


def test_a_reader_ignores_what_it_does_not_know(tmp_path: Path) -> None:
    result = '{"event":"result","nodeid":"x","outcome":"pass","colour":"red"}\n'
    (tmp_path / "log").write_text(STARTS + '{"event":"weather"}\n{"no":"event"}\n' + result)
    assert whole(tmp_path / "log").records == (Record(TestId("x"), Outcome.PASS),)


FAILED = Record(A, Outcome.FAIL)
ERROR = CollectionError("test_y.py", "SyntaxError", "")
OVER = {
    "ends in the middle": (None, (FAILED,), (), False),
    "all has a result": (END, (FAILED, Record(B, Outcome.PASS)), (), True),
    "stopped by -x": (replace(END, stopped="stopping after 1 failures"), (FAILED,), (), True),
    "interrupted": (replace(END, stopped="interrupted", broken=True), (FAILED,), (), False),
    "out of workers": (END, (FAILED,), (), False),
    "a file could not be collected": (replace(END, stopped="1 error"), (FAILED,), (ERROR,), False),
    "gone on without that file": (END, (FAILED, Record(B, Outcome.PASS)), (ERROR,), True),
    "nothing ran": (END, (), (), False),
}


@pytest.mark.parametrize("case", OVER)
def test_is_over(case: str) -> None:
    end, records, errors, is_over = OVER[case]
    assert RunFile(START, (A, B), errors, records, end=end).is_over == is_over


def test_a_run_that_is_over_is_not_written_to(tmp_path: Path) -> None:
    path = write(tmp_path / "log", Record(A, Outcome.FAIL))
    before = path.read_bytes()
    write(path, Record(A, Outcome.FAIL), Record(C, Outcome.PASS), earlier=whole(path))
    assert path.read_bytes() == before


def test_what_ran_when_it_was_interrupted_is_not_running(tmp_path: Path) -> None:
    sink = JsonLines(tmp_path / "log")
    sink.start(START)
    sink.planned([A], [])
    sink.started(A)
    assert list(whole(tmp_path / "log").running) == [A]
    sink.end(replace(END, stopped="interrupted", broken=True))
    assert not whole(tmp_path / "log").running
