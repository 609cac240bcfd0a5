# SPDX-License-Identifier: GPL-2.0-only
"""The picture of a test as inline SVG, from its layout.

Everything that the picture needs to be legible is in attributes, so that it is one where a policy of the server (CSP)
takes the page's style sheet away; colours are in the sheet. The lines are for eyes only: every event is a list item
with its text, and a `title` that says of what kind it is, and from whom to whom.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from pytest_kvm_sea.reports.markup import Markup, element, join
from pytest_kvm_sea.reports.sequence import (
    FONT,
    GUTTER,
    HEAD,
    LANES_END,
    LINE,
    Gap,
    Label,
    Loop,
    Picture,
    Step,
    line_of,
)
from pytest_kvm_sea.reports.steps import LANES, lane

NAMES = ("guest", "KVM, host kernel", "firmware", "VMM, the test")
"""Of the lanes, as the reader sees them."""
_SHORT = ("guest", "KVM", "firmware", "VMM")
_TIP = 7


class Kind(NamedTuple):
    """How an event is drawn."""

    meaning: str
    width: float | None = None
    dashes: str | None = None
    """The first is as long as the tip of an arrow, which would be in pieces otherwise."""


KINDS = {
    "setup": Kind("the VMM prepares the VM: ioctls, memory, registers"),
    "run": Kind("KVM_RUN: the guest goes on"),
    "exit": Kind("KVM_RUN returns"),
    "ucall": Kind("the guest speaks to the test"),
    "einj": Kind("a memory error is injected: EINJ's files, poison", 1.5, "18 5"),
    "sea": Kind("the synchronous external abort, and the exit with it", 2.5),
    "signal": Kind("a signal for the VMM, SIGBUS above all", 1.5, "18 3 3 3 3 3"),
    "inject": Kind("the VMM gives the abort back to the guest", 2, "18 4 4 4"),
    "vector": Kind("the guest's exception vector runs", 2),
    "error": Kind("what went wrong", 3),
}


class Shared:
    """Lines that many pictures have in common, each drawn once in a page. Texts are never shared."""

    def __init__(self) -> None:
        self._names: dict[Markup, str] = {}

    def use(self, lines: Markup) -> Markup:
        """A reference to these lines, which are there once the page has the `definitions`."""
        name = self._names.setdefault(lines, f"lines-{len(self._names)}")
        return element("use", href=f"#{name}")

    def definitions(self) -> Markup:
        """What is shared, invisible where it stands."""
        if not self._names:
            return join(())
        groups = (element("g", lines, id=name) for lines, name in self._names.items())
        return element("svg", *groups, width=0, height=0, class_="shared", aria_hidden="true")


def draw(picture: Picture, label: str, *, times: bool = True, shared: Shared | None = None) -> Markup:
    """The whole picture; ``label`` names it for those who do not see it, ``times``: with the time of each event.

    With ``shared`` the lines are put there, and the picture is one only in a page that has its definitions.
    """
    lines = join((_lines(picture), _heads(), *map(_bracket, picture.loops)))
    return element(
        "svg",
        shared.use(lines) if shared else lines,
        element(
            "g",
            *(_texts(step, times=times) for step in picture.steps),
            role="list",
            aria_label=label,
            stroke="Canvas",
            stroke_width=4,
            paint_order="stroke",
        ),
        class_="sequence",
        width=_n(picture.width),
        height=_n(picture.height),
        viewBox=f"0 0 {_n(picture.width)} {_n(picture.height)}",
        font_family="monospace",
        font_size=FONT,
        fill="currentColor",
    )


def sample(kind: str) -> Markup:
    """The line of one kind, for the legend."""
    arrow = _kind(kind, "path", d=_path(4, 56, 10))
    lines = element("g", arrow, fill="none", stroke="currentColor")
    return element("svg", lines, width=64, height=20, viewBox="0 0 64 20", aria_hidden="true")


def _lines(picture: Picture) -> Markup:
    life = "".join(f"M{_n(line_of(index))} {HEAD}V{_n(picture.height)}" for index in range(len(LANES)))
    shapes = [element("path", class_="life", d=life, stroke_dasharray="1 3")]
    shapes += [_shape(step) for step in picture.steps if isinstance(step, Step)]
    kinds = [
        element("text", step.event.kind, x=GUTTER - 8, y=_n(step.facts.y), text_anchor="end")
        for step in picture.steps
        if isinstance(step, Step) and step.event.kind
    ]
    return join(
        (
            element("g", *shapes, fill="none", stroke="currentColor", aria_hidden="true"),
            # The words are part of the description of each step, for whoever does not see them here.
            element("g", *kinds, class_="kind", aria_hidden="true"),
        )
    )


def _shape(step: Step) -> Markup:
    if step.box is None:
        return _kind(step.event.kind, "path", d=_path(step.start, step.stop, step.y))
    x, y, width, height = map(_n, step.box)
    return _kind(step.event.kind, "rect", x=x, y=y, width=width, height=height, rx=4, fill="Canvas")


def _kind(kind: str, name: str, **attributes: str | float) -> Markup:
    known = KINDS.get(kind)
    return element(
        name,
        class_=f"k-{kind}" if known else None,
        **attributes,
        stroke_width=known.width if known else None,
        stroke_dasharray=known.dashes if known else None,
    )


def _path(start: float, stop: float, y: float) -> str:
    """A line with an open tip, which stops short of the life line that it points to."""
    way = 1 if stop > start else -1
    back, across = -way * _TIP, _TIP - 2
    return f"M{_n(start)} {_n(y)}H{_n(stop - way)}m{back}-{across}l{-back} {across}l{back} {across}"


def _heads() -> Markup:
    return element(
        "g",
        *(
            element("text", name, x=_n(line_of(index)), y=HEAD - 14, text_anchor="middle")
            for index, name in enumerate(NAMES)
        ),
        class_="heads",
        font_weight="bold",
    )


def _texts(step: Step | Gap, *, times: bool) -> Markup:
    if isinstance(step, Gap):
        return element("g", _text(step.label, "gap"), role="listitem")
    event = step.event
    start, stop = _SHORT[lane(event.lane)], _SHORT[lane(event.to)]
    way = start if start == stop else f"{start} → {stop}"
    parts = [element("title", f"{event.kind}: {way}" if event.kind else way), _text(step.title, "title")]
    if times:
        parts.append(_text(Label(GUTTER - 8, step.facts.y + LINE, [_time(event.time)], "end"), "kind"))
    return element("g", *parts, _text(step.facts, "facts"), role="listitem")


def _text(label: Label, class_: str) -> Markup:
    if not label.lines or label.lines == [""]:
        return join(())
    first, *others = label.lines
    x = _n(label.x)
    return element(
        "text",
        first,
        *(element("tspan", line, x=x, dy=LINE) for line in others),
        class_=class_,
        x=x,
        y=_n(label.y),
        text_anchor=None if label.anchor == "start" else label.anchor,
    )


def _bracket(loop: Loop) -> Markup:
    x = LANES_END + 6
    shape = element(
        "path",
        d=f"M{x - 8} {_n(loop.top + 3)}h8V{_n(loop.bottom - 3)}h-8",
        fill="none",
        stroke="currentColor",
        aria_hidden="true",
    )
    text = element("text", f"\u00d7{loop.rounds}", x=x + 4, y=_n((loop.top + loop.bottom) / 2 + 4), font_weight="bold")
    return element("g", shape, text, class_="loop")


def _time(seconds: float) -> str:
    """Nothing for what has none."""
    if math.isnan(seconds):
        return ""
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.1f} ms"


def _n(number: float) -> str:
    """A length, as short as can be."""
    return f"{number:.1f}".removesuffix(".0")
