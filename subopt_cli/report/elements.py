"""Parts of a page as HTML. Every text of a part is escaped here, and nowhere is one used unescaped."""

from __future__ import annotations

from functools import singledispatch
from html import escape

from .parts import (
    Cell,
    Chart,
    Column,
    Facts,
    Glossary,
    Paragraph,
    Part,
    Picker,
    Sentences,
    Table,
    Tiles,
)

TALL = 1200  # pixels from which a chart scrolls in a box of its own


def element(tag: str, body: str, **attributes: str) -> str:
    """Return an element; the body is HTML already, the attributes are plain text."""
    written = "".join(f' {name}="{escape(value)}"' for name, value in attributes.items() if value)
    return f"<{tag}{written}>{body}</{tag}>"


@singledispatch
def part_html(part: Part) -> str:
    """Return a part as HTML."""
    raise TypeError(f"a page has no part of type {type(part).__name__}")


@part_html.register
def _(part: Paragraph) -> str:
    return element("p", escape(part.text))


@part_html.register
def _(part: Tiles) -> str:
    tiles = [
        f"<div><dt>{escape(tile.label)}</dt><dd><b>{escape(tile.value)}</b>"
        f"<span>{escape(tile.remark)}</span></dd></div>"
        for tile in part.tiles
    ]
    return element("dl", "".join(tiles), **{"class": "tiles"})


@part_html.register
def _(part: Sentences) -> str:
    return element(
        "ol", "".join(f"<li>{escape(text)}</li>" for text in part.sentences), **{"class": "told"}
    )


@part_html.register
def _(part: Facts) -> str:
    pairs = [
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in part.pairs
    ]
    return element("dl", "".join(pairs), **{"class": "facts"})


@part_html.register
def _(part: Glossary) -> str:
    terms = [
        f"<div><dt>{escape(one.term)}</dt><dd>{escape(one.meaning)}"
        + (f" <cite>{escape(one.source)}</cite>" if one.source else "")
        + "</dd></div>"
        for one in part.definitions
    ]
    return element("dl", "".join(terms), **{"class": "glossary"})


def chart_id(chart: Chart) -> str:
    """Return the id of a chart's element, by which script.js finds its figure."""
    return f"chart-{chart.name}"


@part_html.register
def _(part: Chart) -> str:
    name, height = chart_id(part), part.layout["height"]
    picker = _picker(name, part.picker) if part.picker else ""
    return (
        f'<figure class="{"wide" if part.is_wide else "half"}"><h3 id="{name}-title">{escape(part.title)}</h3>'
        f'{picker}<div class="scroll{" tall" if height > TALL else ""}"><div class="chart" id="{name}" role="img" '
        f'aria-labelledby="{name}-title" style="height:{height}px;min-width:{part.least_width}px"></div></div>'
        f"<figcaption>{escape(part.caption)}</figcaption></figure>"
    )


def _picker(chart: str, picker: Picker) -> str:
    options = [
        f'<option value="{index}"{" selected" * (index == picker.chosen)}>{escape(text)}</option>'
        for index, text in enumerate(picker.options)
    ]
    return (
        f'<label class="picker">{escape(picker.label)} '
        f'<select data-chart="{chart}" autocomplete="off">{"".join(options)}</select></label>'
    )


@part_html.register
def _(part: Table) -> str:
    name = f"table-{part.name}"
    heads = "".join(
        f'<th scope="col" aria-sort="none" class="{column.kind}">'
        f'<button type="button">{escape(column.header)}</button></th>'
        for column in part.columns
    )
    rows = "".join("<tr>" + "".join(map(_cell, row, part.columns)) + "</tr>\n" for row in part.rows)
    entry = (
        f'<label class="picker">Show only rows with <input type="search" data-table="{name}" '
        'autocomplete="off"></label><output></output>'
        if part.has_filter
        else ""
    )
    caption = element("p", escape(part.caption), **{"class": "caption"}) if part.caption else ""
    return (
        f'<div class="table{" wide" if part.is_wide else ""}"><h3 id="{name}-title">{escape(part.title)}</h3>{entry}'
        f'<div class="scroll" tabindex="0" role="region" aria-labelledby="{name}-title">'
        f'<table id="{name}"><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>'
        f"{caption}</div>"
    )


def _cell(cell: Cell, column: Column) -> str:
    value = "" if cell.value is None else f' data-value="{cell.value!r}"'
    title = f' title="{escape(cell.title)}"' if cell.title else ""
    kind = "" if column.kind == "number" else f' class="{column.kind}"'
    bar = "" if cell.bar is None else f'<i style="width:{100 * cell.bar:.1f}%"></i>'
    return f"<td{kind}{value}{title}>{escape(cell.text)}{bar}</td>"
