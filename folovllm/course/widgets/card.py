"""Pieces of HTML that widgets are made of: a white card, so that colours look the same in every theme, and labels."""

import html
from collections.abc import Iterable, Sequence

from folovllm.course.run_story import EDGES, TINTS

_STYLE = """<style>
.folovllm-card { background: white; color: #111; padding: 10px 12px; border: 1px solid #888; border-radius: 6px;
  width: 0; min-width: min(100%, 960px); box-sizing: border-box; line-height: 1.4; overflow-x: auto }
.folovllm-card img { display: block; width: 100%; height: auto }
.folovllm-card h4 { margin: 10px 0 4px; color: #111; font-size: 14px; font-weight: 600 }
.folovllm-card table { border-collapse: collapse; margin: 6px 0 0; width: 100%; font-size: 13px; color: #111;
  background: white }
.folovllm-card th, .folovllm-card td { text-align: left; vertical-align: top; padding: 4px 12px 4px 0;
  color: #111; background: white; white-space: normal; border: 0; border-top: 1px solid #DDD }
.folovllm-card thead th { border-top: 0; color: #444; font-weight: 600 }
.folovllm-card thead th:last-child { width: 55% }
.folovllm-card tbody th { width: 1%; white-space: nowrap; padding: 4px 16px 4px 6px }
.folovllm-card tr.lit > * { background: #FFE9BF }
.folovllm-card code { color: #111; background: none; padding: 0; font-size: 13px; white-space: pre-wrap }
.folovllm-card .text { white-space: pre-wrap; font-family: var(--jp-code-font-family, monospace) }
.folovllm-card .names { display: flex; flex-wrap: wrap; gap: 4px 16px; margin-bottom: 6px }
.folovllm-card .new { background: #FFF1B8; color: #111; border-bottom: 2px solid #8A6100 }
.folovllm-card .label { display: inline-block; min-width: 1.6em; padding: 0 4px; margin-right: 3px; border: 1.5px solid;
  border-radius: 4px; text-align: center; font-weight: 600; color: #111 }
.folovllm-blocks { display: flex; flex-wrap: wrap; gap: 5px }
.folovllm-blocks > div { width: 84px; min-height: 62px; box-sizing: border-box; border: 1.5px solid #444;
  border-radius: 4px; padding: 2px 4px 3px; font-size: 13px; color: #111 }
.folovllm-blocks > div.free { border: 1.5px dashed #888; background: white; color: #595959 }
.folovllm-blocks > div.shared { border: 3px double #111 }
.folovllm-blocks small { display: block; font-size: 12px; color: #333 }
</style>"""


def card(*parts: str) -> str:
    """Return parts of HTML on a white card."""
    return f'{_STYLE}<div class="folovllm-card">{"".join(parts)}</div>'


def label(text: str, color: int) -> str:
    """Return a sequence's or a request's label in its colour. color: which of the colours."""
    tint, edge = TINTS[color % len(TINTS)], EDGES[color % len(EDGES)]
    return f'<span class="label" style="background: {tint}; border-color: {edge}">{html.escape(text)}</span>'


def names(pairs: Iterable[tuple[str, str]]) -> str:
    """Return one line that says which label is whose; the pairs are in the order of the colours."""
    told = (f"<span>{label(letter, i)} {html.escape(name)}</span>" for i, (letter, name) in enumerate(pairs))
    return f'<div class="names">{"".join(told)}</div>'


def background(colors: Iterable[int]) -> str:
    """Return the CSS background of one colour, or of stripes in several."""
    tints = [TINTS[color % len(TINTS)] for color in dict.fromkeys(colors)]
    if len(tints) == 1:
        return tints[0]
    share = 100 / len(tints)
    stops = ", ".join(f"{tint} {i * share:.0f}% {(i + 1) * share:.0f}%" for i, tint in enumerate(tints))
    return f"linear-gradient(90deg, {stops})"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], lit: int | None = None) -> str:
    """Return a table.

    head: plain text, none for no head.  rows: HTML, the first cell of each names the row.  lit: the row that is lit up.
    """
    top = "".join(f'<th scope="col">{html.escape(each)}</th>' for each in head)
    body = "".join(
        f'<tr{" class=lit" if i == lit else ""}><th scope="row">{first}</th>'
        f"{''.join(f'<td>{cell}</td>' for cell in rest)}</tr>"
        for i, (first, *rest) in enumerate(rows)
    )
    return f"<table>{f'<thead><tr>{top}</tr></thead>' if head else ''}<tbody>{body}</tbody></table>"
