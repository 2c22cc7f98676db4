"""A figure as SVG inside a page: its colours follow the page's theme, its ids are its own."""

from __future__ import annotations

import io
import re
from xml.etree import ElementTree

from ulmfit_fast.report.style import VARIABLES, Plot, our_style

_SVG = "http://www.w3.org/2000/svg"
_LINK = "{http://www.w3.org/1999/xlink}href"
# Of a style attribute only these matter; the page's policy forbids style attributes.
_KEPT = {
    "fill", "fill-opacity", "stroke", "stroke-width", "stroke-opacity", "stroke-dasharray",
    "stroke-dashoffset", "stroke-linejoin", "stroke-linecap", "opacity", "font-size", "text-anchor",
}  # fmt: skip
_NUMBER = re.compile(r"-?\d+\.\d{2,}")


def themed_svg(figure: Plot, name: str, description: str) -> str:
    """Return a figure as an SVG element for a page.

    Args:
        figure: drawn within our_style().
        name: begins every id, so that figures of one page do not meet.
        description: what a reader of the screen hears, instead of the picture.

    Returns:
        svg: without style attributes, scripts and links; colours are variables of the page's style
            sheet where VARIABLES has a name for them.
    """
    buffer = io.StringIO()
    with our_style():
        figure.settle()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    root = ElementTree.fromstring(buffer.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{_SVG}}}style", f"{{{_SVG}}}metadata"):
                parent.remove(child)
    for element in root.iter():
        _take_style_apart(element)
        _rename_ids(element, name)
        for attribute in ("d", "x", "y", "transform", "points"):
            if attribute in element.attrib:
                element.set(attribute, _rounded(element.attrib[attribute]))
    for attribute in ("width", "height", "version"):
        root.attrib.pop(attribute, None)
    root.set("role", "img")
    root.set("aria-label", description)
    ElementTree.register_namespace("", _SVG)
    text = ElementTree.tostring(root, encoding="unicode")
    # HTML knows both namespaces without their declarations.
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text).replace("xlink:href", "href")
    return re.sub(r">\s+<", "><", re.sub(r"(?<=\d)\s*\n", " ", text))


def _take_style_apart(element: ElementTree.Element) -> None:
    """Write a style attribute as attributes of its own, with the theme's colours."""
    for declaration in element.attrib.pop("style", "").split(";"):
        name, _, value = (part.strip() for part in declaration.partition(":"))
        if name in _KEPT:
            variable = VARIABLES.get(value.lower())
            element.set(name, f"var({variable})" if variable else value)


def _rename_ids(element: ElementTree.Element, name: str) -> None:
    """Keep only the ids that something refers to, and begin them with a name."""
    identity = element.attrib.pop("id", "")
    # matplotlib's ids of paths to clip with and of markers are m or p and a hash.
    if re.fullmatch(r"[mpC][0-9a-f_]{8,}\w*", identity):
        element.set("id", f"{name}-{identity}")
    if _LINK in element.attrib:
        element.set("href", f"#{name}-{element.attrib.pop(_LINK).removeprefix('#')}")
    if "clip-path" in element.attrib:
        element.set("clip-path", element.attrib["clip-path"].replace("url(#", f"url(#{name}-"))


def _rounded(text: str) -> str:
    return _NUMBER.sub(lambda match: f"{float(match.group()):.1f}".removesuffix(".0"), text)
