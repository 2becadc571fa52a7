"""A result as a notebook shows it: the tree of the terminal, folded, each branch to be opened.

The same steps, counts and marks as `pfjax solve` prints: × proposals, † died, weight at the end. In the
colours of the page, light or dark. All texts are escaped.
"""

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from pfjax.search.branches import LINES, Step, fold, merge

if TYPE_CHECKING:
    from pfjax.search.result import Result

STYLE = (
    ".pfjax{font-family:ui-monospace,monospace;font-size:.9em;line-height:1.5;max-width:70em}"
    ".pfjax ul{list-style:none;margin:0;padding-left:1.2em;border-left:1px solid #8884}"
    ".pfjax li>div,.pfjax summary{display:flex;gap:1em}.pfjax summary{cursor:pointer}"
    ".pfjax summary::before{content:'▸';opacity:.5}.pfjax details[open]>summary::before{content:'▾'}"
    ".pfjax .t{flex:1;overflow-wrap:anywhere}.pfjax .n{white-space:nowrap;opacity:.75}"
    ".pfjax .d{opacity:.45}.pfjax .c>.t{font-weight:bold}"
    ".pfjax .g{color:#2da44e}.pfjax .y{color:#bf8700}.pfjax .r{color:#cf222e}"
)


def page(result: "Result", lines: int = LINES) -> str:
    """The HTML of a result, its tree in about `lines` lines."""
    cut = {i for i, solution in enumerate(result.solutions) if solution.truncated}
    scored = result.counts.prm_tokens + result.counts.reward_calls > 0
    steps = fold(merge(result.tree, result.chosen, None, cut), lines)
    answer = escape(result.answer) if result.answer is not None else "<i>none</i>"
    status = "" if result.status == "ok" else f' · <span class="r">{escape(result.status)}</span>'
    legend = "PRM: log-odds · " * scored + "×: proposals · †: died · weight at the end"
    return (
        f'<div class="pfjax"><style>{STYLE}</style><p><b>{_text(result.question)}</b></p>'
        f"{_list(steps, scored)}<p>answer <b>{answer}</b>{status} · {escape(result.method)}, "
        f'{len(result.solutions)} particles</p><p class="n">{legend}</p></div>'
    )


def _list(steps: Sequence[Step], scored: bool) -> str:
    return f"<ul>{''.join(_item(s, scored) for s in steps)}</ul>" if steps else ""


def _item(s: Step, scored: bool) -> str:
    kind = " ".join(["d"] * (not s.alive) + ["c"] * s.chosen)
    line = f'<span class="t">{_text(s.text) or "(empty step)"}{_cut(s)}</span>{_numbers(s, scored)}'
    if not s.below:
        return f'<li><div class="{kind}">{line}</div></li>'
    opened = " open" if s.chosen or s.alive else ""
    below = _list(s.below, scored)
    return f'<li><details{opened}><summary class="{kind}">{line}</summary>{below}</details></li>'


def _numbers(s: Step, scored: bool) -> str:
    parts = []
    if scored and s.value == s.value:
        colour = "g" if s.value > 1 else "y" if s.value > -1 else "r"
        parts.append(f'<span class="{colour}">{s.value:+.1f}</span>')
    parts.append(f"×{s.count}")
    parts += [f'<span class="r">†{s.dropped}</span>'] if s.dropped else []
    parts += [] if s.share is None else [f"<b>{s.share:.0%}</b>"]
    return f'<span class="n">{" ".join(parts)}</span>'


def _cut(s: Step) -> str:
    return ' <span class="y">(cut off)</span>' if s.cut else ""


def _text(text: str) -> str:
    return escape(text.strip())
