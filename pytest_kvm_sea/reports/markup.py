# SPDX-License-Identifier: GPL-2.0-only
"""Markup that is safe by construction: HTML that is XML as well, from elements; text is always escaped.

Nobody trusts the text: it comes from guests and tests. `element` takes text as `str` and puts it in as text, and other
elements as `Markup`, which only this module makes. Elements, attributes and targets of links that could run or fetch
something do not exist here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from html import escape

_ELEMENTS = """
html head title meta style body header main footer section nav
h1 h2 h3 h4 p div span b em code pre br a ul ol li dl dt dd
table caption thead tbody tr th td details summary figure figcaption
svg g use path rect text tspan
"""
_ATTRIBUTES = """
id class lang title href open colspan scope role tabindex charset name content http-equiv xmlns aria-label aria-hidden
viewBox width height x y dy d rx fill stroke stroke-width stroke-dasharray paint-order
text-anchor font-family font-size font-weight
"""
ELEMENTS = frozenset(_ELEMENTS.split())
ATTRIBUTES = frozenset(_ATTRIBUTES.split())
_VOID = frozenset({"meta", "br", "path", "rect", "use"})
_NAMES = {"class_": "class", "name_": "name"}
_ODD = re.compile(r"[^\n\t\x20-\x7e]")


class Markup(str):
    """Markup that is well-formed and escaped. With a plain `str` added it is one again, and is escaped as text."""

    __slots__ = ()


def visible(text: str) -> str:
    """Text with everything that does not print as an escape, `\\x1b`: control characters, those that turn the
    direction of writing, invisible ones, and those that XML does not allow. Line ends and tabs stay."""
    return text if text.isprintable() else _ODD.sub(_escape_one, text)


def one_line(text: str) -> str:
    """The same, with line ends and tabs as escapes too."""
    return visible(text).replace("\n", "\\n").replace("\t", "\\t")


def _escape_one(found: re.Match[str]) -> str:
    character = found[0]
    if character.isprintable():
        return character
    number = ord(character)
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}" if number < 0x1_0000 else f"\\U{number:08x}"


def cut(text: str, most: int) -> tuple[str, str, str]:
    """The beginning of a text, a note of what was left out, and its end; the last two empty where nothing was.

    What is kept is ``most`` characters long, three quarters of it from the end, where a log tells why.
    """
    if len(text) <= most:
        return text, "", ""
    head = most // 4
    return text[:head], f"[… {len(text) - most:,} characters left out …]", text[len(text) - (most - head) :]


def element(name: str, *children: str, **attributes: str | float | None) -> Markup:
    """An element. A child that is `Markup` goes in as it is, other text is escaped.

    Attributes whose value is None are left out; `class_` is class, `name_` name, and _ in a name is -. Raises
    ValueError for an element or attribute that this module does not know, and for a link that leads out of the page.
    """
    if name not in ELEMENTS:
        raise ValueError(f"no element of a page: {name}")
    opening = f"<{name}{''.join(_attribute(*item) for item in attributes.items())}"
    if name in _VOID:
        return Markup(f"{opening}/>")
    return Markup(f"{opening}>{join(children)}</{name}>")


def join(children: Iterable[str]) -> Markup:
    """Several one after the other."""
    return Markup("".join([child if type(child) is Markup else _text(child) for child in children]))


def start(name: str, **attributes: str | float | None) -> Markup:
    """The start tag alone, for what is too long to hold in memory. The caller writes `end`."""
    return Markup(element(name, **attributes).removesuffix(f"</{name}>"))


def end(name: str) -> Markup:
    """The end tag to `start`."""
    return Markup(f"</{name}>")


def style(sheet: str) -> Markup:
    """A style sheet, which must read the same in HTML and in XML. Raises ValueError otherwise."""
    if set("<&") & set(sheet) or not sheet.isascii():
        raise ValueError("a style sheet of the page has <, & or characters that are not ASCII")
    return Markup(f"<style>{sheet}</style>")


def _text(text: str) -> str:
    return escape(visible(text), quote=False)


def _attribute(name: str, value: str | float | None) -> str:
    if value is None:
        return ""
    name = _NAMES.get(name) or name.replace("_", "-")
    if name not in ATTRIBUTES:
        raise ValueError(f"no attribute of a page: {name}")
    if name == "href" and not str(value).startswith("#"):
        raise ValueError(f"a link out of the page: {value}")
    return f' {name}="{escape(one_line(str(value)))}"'
