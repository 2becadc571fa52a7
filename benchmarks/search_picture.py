"""Draws a search of the embedded models on one held-out problem: every particle, the dead ones too.

    python benchmarks/search_picture.py    writes benchmarks/search.svg
    python benchmarks/search_picture.py --problem 60 --particles 10 --key 3 --out other.png

Steps go from left to right. Particles that wrote the same steps are one ribbon, as wide as they are many;
it widens where resampling copies them. The path of the answer is on top. Problem and key were chosen so
that wrong branches die and the answer is right; how often it is, RESULTS.md tells.
"""

import argparse
import textwrap
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.patches import FancyBboxPatch, PathPatch
from matplotlib.path import Path as Outline

import pfjax
from pfjax.search import Result
from pfjax.tasks import Problem, check_steps, generate

HERE = Path(__file__).parent
# Vermilion, yellow and bluish green of Okabe and Ito: told apart by colour-blind eyes too.
LOG_ODDS = LinearSegmentedColormap.from_list("log-odds", ["#d55e00", "#f0c84b", "#009e73"])
MOST = 4.0
INK, QUIET, FAINT = "#1f2328", "#656d76", "#afb8c1"
CHOSEN, ALIVE, DEAD = "#8fb5dc", "#c6daee", "#e3e6ea"
# Pixels of a picture as wide as a README.
WIDTH, LEFT, RIGHT, TOP, UNIT, GAP, STUB = 900, 28, 126, 122, 9, 19, 14


@dataclass
class Branch:
    """The particles that wrote the same steps, how many copies were made of them, and where they are."""

    steps: tuple[str, ...]
    value: float = 0.0
    rows: int = 0
    copies: int = 0
    weight: float = 0.0
    alive: bool = False
    chosen: bool = False
    top: float = 0.0
    children: list["Branch"] = field(default_factory=list)

    @property
    def ribbon(self) -> str:
        return CHOSEN if self.chosen else ALIVE if self.alive else DEAD


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problem", type=int, default=13)
    parser.add_argument("--particles", type=int, default=10)
    parser.add_argument("--key", type=int, default=5)
    parser.add_argument("--out", type=Path, default=HERE / "search.svg")
    options = parser.parse_args()
    problem = generate(options.problem, "test")
    result = pfjax.load().solve(problem.question, options.particles, options.key)
    draw(result, problem, options.out)
    print(f"{options.out}: answer {result.answer}, truth {problem.answer}")


def branches_of(result: Result) -> Branch:
    """The tree of a result with equal steps put together; the root has the first steps as children."""
    tree = result.tree
    root = Branch(())
    known, of_node = {(): root}, {-1: root}
    path = {id(node) for node in tree.path(result.chosen)}
    for i, node in enumerate(tree.nodes):
        parent = of_node[node.parent]
        steps = (*parent.steps, node.text.strip())
        if steps not in known:
            known[steps] = Branch(steps)
            parent.children.append(known[steps])
        branch = of_node[i] = known[steps]
        branch.value = node.value
        branch.rows += 1
        branch.copies += len(tree.children(i)) + tree.leaves.count(i)
        branch.alive |= node.alive
        branch.chosen |= id(node) in path
    for leaf, weight in zip(tree.leaves, tree.weights, strict=True):
        of_node[leaf].weight += weight
    return root


def columns_of(root: Branch) -> list[list[Branch]]:
    """Branches by the number of their steps, from top to bottom, relatives side by side."""
    columns, column = [], root.children
    while column:
        column.sort(key=lambda branch: not branch.chosen)
        for parent in column:
            parent.children.sort(key=lambda b: (not b.chosen, not b.alive, -b.copies, -b.rows))
        top = TOP
        for branch in column:
            branch.top = top
            top += branch.rows * UNIT + GAP
        columns.append(column)
        column = [child for parent in column for child in parent.children]
    return columns


def draw(result: Result, problem: Problem, out: Path) -> None:
    """Writes the picture of a result."""
    columns = columns_of(branches_of(result))
    pitch = (WIDTH - LEFT - RIGHT) / (len(columns) - 1)
    bottom = max(b.top + b.rows * UNIT for column in columns for b in column)
    height = bottom + 80
    plt.rcParams.update({"svg.hashsalt": "pfjax", "font.family": "DejaVu Sans"})
    figure = plt.figure(figsize=(WIDTH / 100, height / 100), facecolor="none")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, WIDTH), ylim=(height, 0))
    axes.axis("off")
    sheet = "round,pad=0,rounding_size=10"
    axes.add_patch(
        FancyBboxPatch((0, 0), WIDTH, height, boxstyle=sheet, fc="white", ec="none", zorder=0)
    )
    question = textwrap.fill(result.question, 104)
    axes.text(LEFT - 4, 16, question, size=9.5, color=INK, va="top", linespacing=1.4)
    for t, column in enumerate(columns):
        x, is_last = LEFT + t * pitch, t == len(columns) - 1
        resampled = not is_last and any(b.copies != b.rows for b in column)
        draw_ess(axes, x, bottom + 24, result.ess[t], resampled)
        for branch in column if is_last else sorted(column, key=lambda b: b.alive):
            if not is_last:
                draw_ribbons(axes, branch, x, x + pitch, 0.55 if resampled else 0.2)
        for branch in column:
            draw_step(axes, branch, x)
            write_step(axes, branch, x, problem.answer if is_last else None)
    write_footer(axes, columns, problem, len(result.solutions), height - 20)
    figure.savefig(out, metadata={"Date": None} if out.suffix == ".svg" else None, dpi=200)


def draw_ribbons(axes: Axes, branch: Branch, x: float, after: float, straight: float) -> None:
    """The ribbons to what was written next, at `after`; they are `straight` for a share of the way."""
    size = branch.rows * UNIT
    if not branch.copies:
        draw_ribbon(axes, (x, x, x + STUB), (branch.top, size), (branch.top, size), branch.ribbon)
        axes.plot(x + STUB + 7, branch.top + size / 2, "x", color=QUIET, ms=4.5, mew=1.3)
        return
    top, bends = branch.top, (x, x + straight * (after - x), after)
    for child in branch.children:
        # All copies leave from the place of the original, so what is wide later begins narrow.
        share = size * child.rows / branch.copies
        draw_ribbon(axes, bends, (top, share), (child.top, child.rows * UNIT), child.ribbon)
        top += share


def draw_ribbon(
    axes: Axes,
    x: tuple[float, float, float],
    left: tuple[float, float],
    right: tuple[float, float],
    colour: str,
) -> None:
    """A ribbon from (top, size) to (top, size), straight up to the second x."""
    (a, b, c), (top, size), (top_after, size_after) = x, left, right
    middle = (b + c) / 2
    low, low_after = top + size, top_after + size_after
    upper = [(a, top), (b, top), (middle, top), (middle, top_after), (c, top_after)]
    lower = [(c, low_after), (middle, low_after), (middle, low), (b, low), (a, low)]
    curve, line = [Outline.CURVE4] * 3, [Outline.LINETO]
    codes = [Outline.MOVETO, *line, *curve, *line, *curve, *line, Outline.CLOSEPOLY]
    outline = Outline([*upper, *lower, (a, top)], codes)
    axes.add_patch(PathPatch(outline, facecolor=colour, edgecolor=colour, lw=0.3))


def draw_step(axes: Axes, branch: Branch, x: float) -> None:
    """The bar of a step, in the colour of its log-odds."""
    colour = LOG_ODDS(Normalize(-MOST, MOST)(branch.value))
    shape = "round,pad=0,rounding_size=3"
    place = (x - 4, branch.top), 8, branch.rows * UNIT
    axes.add_patch(FancyBboxPatch(*place, boxstyle=shape, fc=colour, ec="none", zorder=3))


def write_step(axes: Axes, branch: Branch, x: float, truth: str | None) -> None:
    """What a step says: all of it on the path of the answer; the weight too at the end, with a truth."""
    text, value = branch.steps[-1], f"{branch.value:+.1f}".replace("-", "−")
    ink = INK if branch.alive else QUIET
    sheet = {"fc": "white", "ec": "none", "alpha": 0.7, "pad": 0.6}
    named, _, numbers = text.rstrip(".").partition(" = ")
    if branch.chosen:
        lines = (named, f"= {numbers}.") if " = " in numbers else (text,)
        for i, line in enumerate(lines[::-1]):
            axes.text(x - 4, TOP - 24 - 14 * i, line, size=8, color=INK)
        axes.text(x - 4, TOP - 8, value, size=7.2, color=QUIET)
    elif truth is None:
        label = f"{numbers or named.split()[-1]}   {value}"
        axes.text(x - 4, branch.top - 6, label, size=7.2, color=ink, bbox=sheet)
    if truth is not None:
        answer = text.partition("{")[2].partition("}")[0]
        verdict = "right" if answer == truth else "wrong"
        told = f"{answer}  {verdict},\nweight {branch.weight:.2f}"
        bold = "bold" if branch.chosen else "normal"
        y = branch.top + branch.rows * UNIT / 2
        axes.text(x + 10, y, told, size=8, color=ink, va="center", weight=bold, linespacing=1.3)


def draw_ess(axes: Axes, x: float, y: float, ess: float, resampled: bool) -> None:
    told = f"ESS {ess:.1f}" + (": resampled" if resampled else "")
    axes.text(x - 4, y, told, size=7.2, color=INK if resampled else QUIET, va="center")
    if resampled:
        axes.plot([x + STUB] * 2, [TOP - 2, y - 10], ":", color=FAINT, lw=1.0, zorder=0.5)


def write_footer(
    axes: Axes, columns: list[list[Branch]], problem: Problem, n: int, y: float
) -> None:
    for i in range(20):
        axes.plot([LEFT - 4 + 3 * i, LEFT - 0.5 + 3 * i], [y, y], color=LOG_ODDS(i / 19), lw=5)
    dead = [b for column in columns for b in column if not b.copies]
    wrong = sum(not all(check_steps(problem, list(b.steps))) for b in dead)
    told_wrong = "all" if wrong == len(dead) else f"{wrong} of them"
    told = (
        f"reward model's log-odds, −{MOST:.0f} to +{MOST:.0f}     ribbon: particles that share their steps, "
        f"{n} in all     ×: died in resampling, {len(dead)} branches, {told_wrong} wrong     truth: {problem.answer}"
    )
    axes.text(LEFT + 64, y, told, size=7.2, color=QUIET, va="center")


if __name__ == "__main__":
    main()
