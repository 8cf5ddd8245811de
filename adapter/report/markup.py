"""HTML in small pieces, and the one rule that keeps it safe: a string is text and gets escaped, unless it is an `Html`.

Sample names, paths and recipe values are other people's data, and a report is passed around and opened; a file named `<script>` must come
out as those eight characters.
"""

import html
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = [
    "Html",
    "attributes",
    "bounded",
    "definitions",
    "details",
    "join",
    "note",
    "number",
    "scroll",
    "table",
    "tag",
    "text",
]

VOID = {"img", "input"}  # have no end tag


@dataclass(frozen=True)
class Html:
    """Markup that is safe as it stands."""

    source: str


def text(value: object) -> Html:
    """Anything as escaped text; None is a dash."""
    return value if isinstance(value, Html) else Html("–" if value is None else html.escape(str(value), quote=True))


def attributes(**values: object) -> str:
    """` name="value"` each; True alone gives a bare name, None and False nothing; `class_` is class, `data_x` is data-x."""
    made = []
    for name, value in values.items():
        name = name.rstrip("_").replace("_", "-")
        if value is True:
            made.append(f" {name}")
        elif value is not None and value is not False:
            made.append(f' {name}="{html.escape(str(value), quote=True)}"')
    return "".join(made)


def tag(name: str, /, *children: object, **values: object) -> Html:
    """<name attributes>children</name>; what is not Html is escaped."""
    if name in VOID:
        return Html(f"<{name}{attributes(**values)}>")
    return Html(f"<{name}{attributes(**values)}>{''.join(text(child).source for child in children)}</{name}>")


def join(parts: Iterable[Html], between: str = "\n") -> Html:
    return Html(between.join(part.source for part in parts))


def number(value: Any, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def bounded(value: float | None, interval: Sequence[float] | None) -> Html:
    """A value, and below it its interval."""
    if not interval:
        return tag("span", number(value), class_="value")
    between = tag("span", f"{number(interval[0])} – {number(interval[1])}", class_="interval")
    return Html(tag("span", number(value), class_="value").source + between.source)


def note(*children: object, kind: str = "note") -> Html:
    return tag("p", *children, class_=kind)


def details(summary: str, *children: object, opened: bool = False) -> Html:
    return tag("details", tag("summary", summary), *children, open=opened)


def scroll(content: Html, *, label: str) -> Html:
    """A box in which what is too wide scrolls, by keyboard too."""
    return tag("div", content, class_="scroll", tabindex="0", role="region", aria_label=label)


def table(
    caption: str, columns: Sequence[object], rows: Iterable[Sequence[object]], *, right: Collection[int] = (), **values: object
) -> Html:
    """A table in its scroll box; the first cell of a row is its heading. `right`: numbers of the columns that hold numbers."""
    heads = [tag("th", column, scope="col", class_="n" if place in right else None) for place, column in enumerate(columns)]
    body = []
    for row in rows:
        first, *rest = row
        cells = [
            tag("th", first, scope="row"),
            *(tag("td", c, class_="n" if i in right else None) for i, c in enumerate(rest, 1)),
        ]
        body.append(tag("tr", *cells))
    made = tag("table", tag("caption", caption), tag("thead", tag("tr", *heads)), tag("tbody", *body), **values)
    return scroll(made, label=caption)


def definitions(pairs: Iterable[tuple[str, object]]) -> Html:
    """Names and values, one a line."""
    return tag("dl", *(tag("div", tag("dt", name), tag("dd", value)) for name, value in pairs))
