# SPDX-License-Identifier: GPL-2.0-only
"""What a story knows besides its steps, as markup: addresses, syndromes, registers, code, console, kernel messages."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

from pytest_kvm_sea.reports.markup import Markup, cut, element, join, one_line

MOST_TEXT = 64 * 1024
"""Characters of one block of text."""
MOST_WORD = 2000
"""Characters of a value, a name, a reason."""
MOST_ENTRIES = 500
"""Lines of a table, or messages."""
_ADDRESSES = (("gva", "guest VA"), ("ipa", "IPA"), ("hva", "host VA"), ("hpa", "host PA"))
_IN_A_ROW = 4

Json = Mapping[str, Any]


def word(text: object) -> str:
    """One value on one line, cut where it is very long."""
    return one_line("".join(cut(str(text), MOST_WORD)))


def block(text: str, most: int = MOST_TEXT) -> Markup:
    """Text as it is, line by line, with a note of what was cut out of it."""
    head, note, tail = cut(text, most)
    return element("pre", element("code", head, element("b", note, class_="note") if note else "", tail))


def part(title: str, *content: Markup) -> Markup:
    """A heading and what is below it; nothing where there is nothing."""
    inside = join(content)
    return element("section", element("h4", title), inside) if inside else join(())


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], class_: str | None = None) -> Markup:
    """A table with a head; nothing without rows."""
    lines = [element("tr", *(element("td", cell) for cell in row)) for row in rows]
    if not lines:
        return join(())
    head = element("tr", *(element("th", name, scope="col") for name in heads))
    whole = element("table", element("thead", head), element("tbody", *lines), class_=class_)
    return element("div", whole, class_="scroll")


def code(text: object) -> Markup:
    return element("code", word(text)) if text not in ("", None) else join(())


def places(story: Json) -> Markup:
    """The cell by all its addresses, from the guest down to the memory."""
    heads = [f"{'→ ' if index else ''}{name}" for index, (_, name) in enumerate(_ADDRESSES)]
    lines = [
        [*(code(place.get(key)) for key, _ in _ADDRESSES), word(place.get("what", ""))]
        for place in story.get("places", ())
    ]
    return part("Addresses", table([*heads, ""], lines, "places"))


def syndromes(story: Json) -> Markup:
    """Every syndrome field by field."""
    found = []
    for syndrome in story.get("syndromes", ()):
        name = element("p", code(syndrome["register"]), " = ", code(syndrome["value"]))
        rows = [
            (code(field["name"]), code(field["bits"]), code(field["value"]), word(field["meaning"]))
            for field in syndrome.get("fields", ())
        ]
        found.append(element("div", name, table(("field", "bits", "value", "meaning"), rows), class_="syndrome"))
    return part("Syndromes", element("div", *found, class_="side") if found else join(()))


def syndrome_lines(story: Json) -> Markup:
    """The same in short: a line per syndrome with what its fields mean, as far as they are not 0."""
    found = []
    for syndrome in story.get("syndromes", ()):
        told = [
            f"{field['name']} {field['meaning'] or field['value']}"
            for field in syndrome.get("fields", ())
            if field["value"].strip("0x")
        ]
        meaning = f" {word('; '.join(told))}" if told else ""
        found.append(element("p", code(syndrome["register"]), " = ", code(syndrome["value"]), meaning))
    return part("Syndromes", *found)


def registers(story: Json) -> Markup:
    """Of every vCPU, four in a row."""
    return join(
        part(f"Registers: {word(vcpu)}", _grid([(word(name), code(value)) for name, value in values.items()]))
        for vcpu, values in story.get("registers", {}).items()
    )


def _grid(pairs: Sequence[tuple[str, Markup]]) -> Markup:
    cells = [join((element("th", name, scope="row"), element("td", value))) for name, value in pairs]
    left = iter(cells)
    rows = [element("tr", *row) for row in iter(lambda: list(islice(left, _IN_A_ROW)), [])]
    return element("div", element("table", *rows, class_="registers"), class_="scroll") if rows else join(())


def instructions(story: Json) -> Markup:
    """The code around the PC of every vCPU, and around other places that the story names; the place is marked."""
    return join(
        part(f"Code: {word(where)}", _listing(lines)) for where, lines in story.get("code", {}).items() if lines
    )


def _listing(lines: Sequence[Json]) -> Markup:
    rows = []
    for line in lines:
        here = line.get("is_pc", False)
        cells = [
            element("td", element("b", "→") if here else ""),
            *(element("td", code(line.get(key))) for key in ("address", "word", "text")),
            element("td", word(line.get("place", ""))),
        ]
        rows.append(element("tr", *cells, class_="pc" if here else None))
    return element("div", element("table", *rows, class_="listing"), class_="scroll")


def printed(story: Json, key: str, title: str, most: int = MOST_TEXT) -> Markup:
    """Lines that somebody printed: the guest's console, the kernel's messages."""
    lines = [str(line).removesuffix("\n") for line in story.get(key, ())]
    return part(title, block("\n".join(lines), most)) if lines else join(())


def taint(story: Json) -> Markup:
    """Nothing where the kernel's taint did not change."""
    found = story.get("taint")
    if not found or (found["before"] == found["after"] and not found.get("added")):
        return join(())
    added = element("ul", *(element("li", word(one)) for one in found["added"])) if found.get("added") else join(())
    return part("Kernel taint", element("p", f"{found['before']} before the test, {found['after']} after it"), added)


def notes(story: Json) -> Markup:
    """What was cut, or could not be found out."""
    found = [element("li", word(note)) for note in story.get("notes", ())[:MOST_ENTRIES]]
    return part("Notes", element("ul", *found)) if found else join(())


FULL: tuple[Callable[[Json], Markup], ...] = (
    places,
    syndromes,
    instructions,
    registers,
    lambda story: printed(story, "console", "Guest's console"),
    lambda story: printed(story, "kernel_log", "Kernel messages"),
    taint,
    notes,
)
"""What is shown of a test that did not pass, in this order."""
SHORT: tuple[Callable[[Json], Markup], ...] = (
    places,
    syndrome_lines,
    lambda story: printed(story, "console", "Guest's console", 400),
    taint,
    notes,
)
