"""HTML and SVG as trees, so that whatever comes from a record is escaped wherever it ends up."""

import re
from collections.abc import Iterable
from xml.etree.ElementTree import Element, tostring

Child = Element | str | None


def element(tag: str, *children: "Child | Iterable[Child]", **attributes: str) -> Element:
    """An element with text and elements in it, in order.

    children: text, elements, sequences of them; None is left out. attributes: a trailing underscore is dropped
        (class_), other underscores become hyphens (data_value).
    """
    made = Element(tag, {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items()})
    for child in children:
        if child is None:
            continue
        for one in [child] if isinstance(child, str | Element) else child:
            if isinstance(one, Element):
                made.append(one)
            elif one is not None and len(made):
                made[-1].tail = (made[-1].tail or "") + one
            elif one is not None:
                made.text = (made.text or "") + one
    return made


def html(page: Element) -> str:
    """The page as text, with its doctype."""
    text = tostring(page, encoding="unicode", method="html")
    # HTML lets SVG's childless elements close themselves.
    text = re.sub(r"<((circle|line|path|polyline|rect)\b[^<>]*)></\2>", r"<\1/>", text)
    return f"<!doctype html>\n{text}\n"
