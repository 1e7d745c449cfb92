"""The page of a report: one HTML file with plots, which asks for nothing from elsewhere and runs no script.

All that comes from a vocabulary or a text is escaped: a token may be `<script>`.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence

from bpetok.report import Report, readable

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --faint: #6a737d; --paper: #fff; --card: #f4f6f8; --bar: #3b7dd8 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8eb; --faint: #98a1ab; --paper: #14171a; --card: #1f2429; --bar: #6ea8fe }
}
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
       max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.1rem; margin-top: 2.2rem }
p, figcaption, small { color: var(--faint) }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr)); gap: .7rem }
.cards div { background: var(--card); border-radius: .5rem; padding: .6rem .8rem }
.cards b { display: block; font-size: 1.25rem; font-variant-numeric: tabular-nums }
table { border-collapse: collapse; width: 100% }
th, td { text-align: right; padding: .2rem .6rem; border-bottom: 1px solid var(--card) }
td { font-variant-numeric: tabular-nums }
th:first-child, td:first-child { text-align: left }
code { background: var(--card); border-radius: .25rem; padding: 0 .25rem }
code { white-space: pre-wrap; overflow-wrap: anywhere }
figure { margin: 1rem 0; overflow-x: auto } svg { max-width: 100%; height: auto }
svg text { fill: var(--ink); font: 12px system-ui, sans-serif } svg .faint { fill: var(--faint) }
svg rect, svg circle { fill: var(--bar) } svg path { stroke: var(--bar); fill: none; stroke-width: 1.5 }
svg line { stroke: var(--faint); stroke-width: .5 }
"""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_MOST_LISTED = 200


def page(report: Report) -> str:
    """The whole page, as text of an HTML file."""
    name = html.escape(report.vocab.name)
    parts = [
        f"<h1>{name}</h1><p>{len(report.vocab):,} ids · {html.escape(str(report.vocab.split))} · "
        f"<small>{report.vocab.fingerprint}</small></p>",
        _cards(report),
        _scripts(report),
        _lengths(report),
        _frequencies(report),
        _tokens(report),
    ]
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{name}</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head>'
        f"<body>{''.join(parts)}</body></html>\n"
    )


def _cards(report: Report) -> str:
    use, holds = report.use, report.holds
    facts = {
        "bytes of text": f"{use.bytes:,}",
        "tokens": f"{use.tokens:,}",
        "bytes per token": _number(use.bytes_per_token),
        "tokens per word": _number(use.fertility),
        "Rényi efficiency": _number(use.renyi_efficiency(holds.tokens)),
        "never used": f"{len(report.never_used):,} of {holds.tokens - 256:,}",
        "unreachable": f"{len(holds.unreachable):,}",
        "partial characters": f"{holds.partial:,}",
        "near duplicates": f"{holds.in_near_duplicates:,}",
    }
    cards = "".join(f"<div>{html.escape(name)}<b>{value}</b></div>" for name, value in facts.items())
    return f'<div class="cards">{cards}</div>'


def _scripts(report: Report) -> str:
    rows = [
        (
            one.script,
            f"{one.tokens:,}",
            f"{one.words:,}",
            _number(one.bytes_per_token),
            "–" if one.fertility is None else _number(one.fertility),
            _number(one.tokens_per_character),
        )
        for one in report.use.scripts
    ]
    heads = ("script", "tokens", "words", "bytes per token", "tokens per word", "tokens per character")
    bars = [(one.script, one.bytes_per_token) for one in report.use.scripts if one.tokens]
    return (
        "<h2>By script</h2>"
        + _table(heads, rows)
        + _bars(bars, "Bytes per token. A token counts with its first script; a blank before a word with the word.")
    )


def _lengths(report: Report) -> str:
    """How many tokens of each length the vocabulary has, those of 16 bytes or more together."""
    held = [0] * 17
    for token in report.vocab.ranks:
        held[min(len(token), 16)] += 1
    bars = [(f"{n} bytes" if n < 16 else "16 or more", float(held[n])) for n in range(1, 17)]
    return "<h2>Tokens by length</h2>" + _bars(bars, "How many tokens of each length the vocabulary has.")


def _frequencies(report: Report) -> str:
    """How often the tokens occur, the most frequent first, both on logarithmic axes."""
    counts = sorted((n for n in report.use.counts.tolist() if n > 0), reverse=True)
    if len(counts) < 2:
        return ""
    width, height, left = 640, 260, 50
    steps = sorted({round(len(counts) ** (i / 200)) - 1 for i in range(201)})
    x_unit, y_unit = width / math.log(len(counts)), height / math.log(counts[0] + 1)
    points = [
        (left + math.log(i + 1) * x_unit, 10 + height - math.log(counts[i]) * y_unit) for i in steps if i < len(counts)
    ]
    line = "M" + " L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    marks = [10**n for n in range(10) if 10**n <= counts[0]]
    axis = "".join(
        f'<line x1="{left}" x2="{left + width}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text class="faint" x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{_short(mark)}</text>'
        for mark, y in ((mark, 10 + height - math.log(mark) * y_unit) for mark in marks)
    )
    caption = (
        f"How often each of the {len(counts):,} tokens in use occurs, the most frequent first; both axes logarithmic."
    )
    picture = f'<svg viewBox="0 0 {left + width + 10} {height + 20}" width="{left + width + 10}" role="img">'
    return (
        "<h2>Tokens by frequency</h2><figure>"
        f'{picture}{axis}<path d="{line}"/></svg><figcaption>{caption}</figcaption></figure>'
    )


def _tokens(report: Report) -> str:
    most = [(_code(token), f"{n:,}") for token, n in report.most_used(30)]
    groups = [" ".join(map(_code, group)) for group in report.holds.near_duplicates[:_MOST_LISTED]]
    return "".join(
        [
            "<h2>Most used</h2>",
            _table(("token", "times"), most, escaped=True),
            _list("Longest", list(report.holds.longest)),
            _list("Never used in this text", report.never_used),
            _list("Unreachable: no merge makes them", list(report.holds.unreachable)),
            f"<h2>Near duplicates</h2><p>{len(report.holds.near_duplicates):,} groups of tokens that are the same but "
            f"for a leading blank or case{_of_which(len(groups), len(report.holds.near_duplicates))}.</p>",
            "".join(f"<div>{group}</div>" for group in groups),
        ]
    )


def _list(title: str, tokens: Sequence[bytes]) -> str:
    shown = tokens[:_MOST_LISTED]
    codes = " ".join(map(_code, shown)) or "none"
    note = f"{len(tokens):,} tokens{_of_which(len(shown), len(tokens))}."
    return f"<h2>{html.escape(title)}</h2><p>{note}</p><div>{codes}</div>"


def _of_which(shown: int, all_of_them: int) -> str:
    return f", of which the first {shown:,} are shown" if shown < all_of_them else ""


def _code(token: bytes) -> str:
    return f"<code>{html.escape(readable(token))}</code>"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, escaped: bool = False) -> str:
    """A table; its cells are text, unless they are HTML already."""
    head = "".join(f"<th>{html.escape(one)}</th>" for one in heads)
    body = "".join(
        "<tr>" + "".join(f"<td>{cell if escaped else html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _bars(bars: Sequence[tuple[str, float]], caption: str) -> str:
    """A horizontal bar for each name and value."""
    most = max((value for _, value in bars), default=0) or 1
    rows = [
        f'<text x="120" y="{y + 13}" text-anchor="end">{html.escape(name)}</text>'
        f'<rect x="128" y="{y + 2}" width="{430 * value / most:.1f}" height="14" rx="2"/>'
        f'<text class="faint" x="{134 + 430 * value / most:.1f}" y="{y + 13}">{_number(value)}</text>'
        for y, (name, value) in zip(range(0, 20 * len(bars), 20), bars, strict=True)
    ]
    size = f'viewBox="0 0 640 {20 * len(bars) + 4}" width="640"'
    return (
        f'<figure><svg {size} role="img">{"".join(rows)}</svg><figcaption>{html.escape(caption)}</figcaption></figure>'
    )


def _number(value: float) -> str:
    if value != value:
        return "–"
    return f"{value:,.0f}" if value == int(value) else f"{value:,.3f}"


def _short(value: int) -> str:
    return f"{value // 10**6}M" if value >= 10**6 else f"{value // 1000}k" if value >= 1000 else str(value)
