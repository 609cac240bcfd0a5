# SPDX-License-Identifier: GPL-2.0-only
"""A story as text: a short section for the terminal, and the whole for a file. No line of it came unescaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from pytest_kvm_sea.reports.plain import plain
from pytest_kvm_sea.reports.story import Event, Instruction, Place, Story, Syndrome

SECTION_EVENTS = 12
SECTION_LINE = 180
SECTION_CODE = 5
_SECTION_CONSOLE, _SECTION_KERNEL, _SECTION_NOTES, _SECTION_PLACES = 3, 3, 3, 2
_IN_SHORT = {"gva", "gpa", "ipa", "hva", "hpa", "esr", "flags", "text", "error", "expression", "vector", "class"} | {
    "pc",
    "elr_el1",
    "far_el1",
    "esr_el1",
    "elr_el2",
    "far_el2",
    "esr_el2",
}
"""What the section shows of an event; the rest is in the whole."""
_DULL = {"setup", "run"}
_REGISTERS_A_LINE = 4
_ECHO = "echo "


def section(story: Story) -> list[str]:
    """At most 40 lines: the sequence, the addresses, the syndrome that matters, the code around the PC, the console."""
    lines = [f"{story.target}, Linux {story.kernel}" if story.kernel else story.target]
    lines += _short_events(story.events)
    lines += [_place(place) for place in story.places[-_SECTION_PLACES:]]
    lines += [_headline(syndrome) for syndrome in story.syndromes[-3:-1]]
    if story.syndromes:
        lines += [_headline(story.syndromes[-1]), *_fields(story.syndromes[-1], empty=False)]
    if story.code:
        name, code = list(story.code.items())[-1]
        lines += [f"{name}:", *_around_pc(code)]
    lines += _tail("console", story.console, _SECTION_CONSOLE)
    lines += _tail("kernel", story.kernel_log, _SECTION_KERNEL)
    if story.taint is not None and story.taint.added:
        lines.append(f"the kernel is tainted since: {', '.join(story.taint.added)}")
    lines += [f"note: {note}" for note in story.notes[:_SECTION_NOTES]]
    return [plain(line, SECTION_LINE) for line in lines]


def whole(story: Story) -> list[str]:
    """Everything, in the order in which one asks for it."""
    lines = [f"target    {story.target}", f"kernel    {story.kernel or 'not known'}"]
    if story.taint is not None:
        added = f", added: {', '.join(story.taint.added)}" if story.taint.added else ""
        lines.append(f"taint     {story.taint.before} before, {story.taint.after} after{added}")
    lines += _block("What failed", story.expected.split("\n") if story.expected else ())
    lines += _block("What happened", [line for event in story.events for line in _long_event(event)])
    lines += _block("Addresses", map_places(story.places))
    for syndrome in story.syndromes:
        lines += _block(_headline(syndrome), _fields(syndrome, empty=True))
    for name, registers in story.registers.items():
        lines += _block(f"Registers of {name}", _registers(registers))
    for name, code in story.code.items():
        lines += _block(f"Code: {name}", [_instruction(line, place=True) for line in code])
    lines += _block("The guest's console", story.console)
    lines += _block("The kernel's messages (of the whole machine)", story.kernel_log)
    lines += _block("Notes", story.notes)
    return lines


def _block(title: str, lines: Sequence[str]) -> list[str]:
    return ["", f"== {title}", *lines] if lines else []


# Events


def _way(event: Event) -> str:
    return event.lane if event.lane == event.to else f"{event.lane} > {event.to}"


def _short_events(events: Sequence[Event]) -> list[str]:
    """The last ones that say something; how many are left out."""
    told = _join_writes([event for event in events if event.kind not in _DULL])
    shown = told[-SECTION_EVENTS:]
    lines = [f"{'ms':>9}  {'who > whom':18}  what"] if shown else []
    if len(told) > len(shown):
        lines.append(f"{'...':>9}  {len(told) - len(shown)} steps before")
    for event in shown:
        facts = " ".join(f"{name}={value}" for name, value in event.facts if name in _IN_SHORT)
        lines.append(f"{event.time * 1e3:9.3f}  {_way(event):18}  {event.title}  {facts}".rstrip())
    return lines


def _join_writes(events: Sequence[Event]) -> list[Event]:
    """What is written to EINJ's files, one after the other, is one line: `echo 0x10 > error_type; 0x2 > flags; ...`."""
    joined: list[Event] = []
    for event in events:
        before = joined[-1] if joined else None
        if before is not None and all(each.kind == "einj" and each.title.startswith(_ECHO) for each in (before, event)):
            joined[-1] = replace(before, title=f"{before.title}; {event.title.removeprefix(_ECHO)}")
        else:
            joined.append(event)
    return joined


def _long_event(event: Event) -> list[str]:
    width = max((len(name) for name, _ in event.facts), default=0)
    return [
        f"{event.time * 1e3:9.3f} ms  {_way(event):18}  {event.title}",
        *(f"{'':34}{name:{width}}  {value}" for name, value in event.facts),
    ]


# Places and syndromes


def _place(place: Place) -> str:
    steps = (("guest VA", place.gva), ("IPA", place.ipa), ("host VA", place.hva), ("host PA", place.hpa))
    way = " > ".join(f"{name} {value}" for name, value in steps if value)
    return f"{way}  ({place.what})"


def map_places(places: Sequence[Place]) -> list[str]:
    """A line for each place."""
    return [_place(place) for place in places]


def _fields(syndrome: Syndrome, *, empty: bool) -> list[str]:
    """A line for each field; without ``empty`` those are left out that are zero."""
    fields = [field for field in syndrome.fields if empty or field.value != "0x0"]
    name = max((len(field.name) for field in fields), default=0)
    value = max((len(field.value) for field in fields), default=0)
    return [
        f"  {field.bits:>5}  {field.name:{name}}  {field.value:{value}}  {field.meaning}".rstrip() for field in fields
    ]


def _headline(syndrome: Syndrome) -> str:
    meaning = f"  {syndrome.summary}" if syndrome.summary else ""
    return f"{syndrome.register} = {syndrome.value}{meaning}"


def syndrome_lines(syndrome: Syndrome) -> list[str]:
    """A syndrome with all its fields."""
    return [_headline(syndrome), *_fields(syndrome, empty=True)]


# Registers and code


def _registers(registers: Mapping[str, str]) -> list[str]:
    cells = [f"{name:>9} {value}" for name, value in registers.items()]
    return ["  ".join(cells[at : at + _REGISTERS_A_LINE]) for at in range(0, len(cells), _REGISTERS_A_LINE)]


def _instruction(line: Instruction, *, place: bool) -> str:
    mark = "->" if line.is_pc else "  "
    text = f" {mark} {line.address}  {line.word}  {line.text}"
    return f"{text:56}  {line.place}" if place and line.place else text


def _around_pc(code: Sequence[Instruction]) -> list[str]:
    """The PC and what is next to it; where it is in the program is said once."""
    at = next((number for number, line in enumerate(code) if line.is_pc), 0)
    first = max(0, at - SECTION_CODE // 2)
    return [_instruction(line, place=line.is_pc) for line in code[first : first + SECTION_CODE]]


def _tail(name: str, lines: Sequence[str], count: int) -> list[str]:
    left_out = [f"{name}: {len(lines) - count} lines before"] if len(lines) > count else []
    return left_out + [f"{name}: {line}" for line in lines[-count:]]
