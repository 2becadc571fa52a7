"""A search in the terminal: the particle tree as coloured lines, the answer, the counts.

Knows nothing of JAX, files or how the Result was made.
"""

from collections.abc import Sequence

from rich.console import Console, Group
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from pfjax.cli.request import SHOWN, Options
from pfjax.cli.solving import SPLIT, Solved
from pfjax.search.branches import LINES, Step, fold, merge

CHOSEN = (
    "Seed 9 is shown because the filter solves its three problems and one sample none. Of 500 held-out "
    "problems it solves 53 % with 16 particles, one sample 27 % (benchmarks/RESULTS.md); try --seed 0."
)


def particle_tree(steps: list[Step], *, scored: bool = True) -> Table:
    """The steps as a table of one line each; `scored` adds the PRM's log-odds."""
    heads = ["PRM"] * scored + ["×", "†", "weight"]
    rows = [[Text("question", "bold"), *(Text(h, "dim") for h in heads)]]

    def add(siblings: list[Step], guide: str) -> None:
        for s in siblings:
            last = s is siblings[-1]
            line = Text(no_wrap=True, overflow="ellipsis")
            line.append(guide + ("└ " if last else "├ "), "dim")
            rows.append([line.append_text(_label(s)), *_columns(s, scored)])
            add(s.below, guide + ("  " if last else "│ "))

    add(steps, "")
    table = Table.grid(padding=(0, 0, 0, 2))
    table.add_column()  # rich takes room from columns that may wrap; the cells themselves may not
    for _ in heads:
        table.add_column(justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


def _label(s: Step) -> Text:
    label = Text()
    if s.right is not None:
        colour = "green" if s.right else "red"
        label.append("✓ " if s.right else "✗ ", colour if s.alive else f"{colour} dim")
    label.append(s.text or "(empty step)", "dim" if not s.alive else "bold" if s.chosen else "")
    if s.cut:
        label.append(" (cut off)", "yellow")
    return label


def _columns(s: Step, scored: bool) -> list[Text]:
    known = s.value == s.value
    value = Text(f"{s.value:+.1f}" if known else "", _colour(s.value) if known else "")
    died = Text(f"†{s.dropped}" if s.dropped else "", "red dim")
    share = "" if s.share is None else f"{s.share:.0%}"
    if not s.alive:
        value.stylize("dim")
    return [value] * scored + [Text(f"×{s.count}", "dim"), died, Text(share, "bold" * s.chosen)]


def _colour(value: float) -> str:
    return "green" if value > 1 else "yellow" if value > -1 else "red"


def report(options: Options, solved: Sequence[Solved], lines: int | None = LINES) -> None:
    """Everything about the problems on stdout, trees in about `lines` lines, then a summary."""
    console = Console()
    for s in solved:
        console.print(_problem(s, lines))
    known = [s for s in solved if s.truth is not None]
    scored = any(s.result.counts.prm_tokens for s in solved)
    checked = any(s.problem is not None for s in solved)
    console.print(_legend(known=checked, scored=scored))
    if known:
        console.print(_summary(options, known))
    if checked and _is_default(options):
        console.print(Text(CHOSEN, "dim"))


def _is_default(options: Options) -> bool:
    """Whether this is the search that the sentence speaks of."""
    asked = options.policy, options.method, options.particles, options.seed, options.num_problems
    temperature = options.sampling.temperature
    return asked == ("embedded:small", "pf", 16, SHOWN, 3) and (temperature, options.tau) == (1, 1)


def _problem(s: Solved, lines: int | None) -> Group:
    """Question, tree, answer, counts."""
    result, counts = s.result, s.result.counts
    cut = {i for i, solution in enumerate(result.solutions) if solution.truncated}
    steps = merge(result.tree, result.chosen, s.right, cut)
    if lines is not None:
        steps = fold(steps, lines)
    title = "question" if s.index is None else f"orchard, {SPLIT} problem {s.index}"
    answer = Text().append("answer ", "dim").append_text(_answer(result.answer, s.correct(result)))
    if s.truth is not None:
        answer.append("   truth ", "dim").append(s.truth, "bold")
    if s.single is not None:
        answer.append("   one sample says ", "dim")
        answer.append_text(_answer(s.single.answer, s.correct(s.single)))
    if result.status != "ok":
        answer.append(f"   {result.status}", "red")
    used = f"{counts.policy_tokens:,} policy tokens · {counts.prm_tokens:,} PRM tokens · "
    whose = f"all {counts.problems} problems" if counts.problems > 1 else "this problem"
    used += f"{counts.seconds * counts.problems:.1f} s and {counts.compilations} compilations for {whose}"
    return Group(
        Rule(Text(title, "bold"), align="left", style="dim"),
        Text(result.question),
        Text(""),
        particle_tree(steps, scored=counts.prm_tokens > 0),
        Text(""),
        answer,
        Text(used, "dim"),
        Text(""),
    )


def _summary(options: Options, known: Sequence[Solved]) -> Text:
    of = f" of {len(known)}"
    solved = sum(bool(s.correct(s.result)) for s in known)
    text = Text("solved ").append(f"{solved}{of}", "bold")
    text.append(f" by {options.method} with {options.particles} particles")
    if known[0].single is not None:
        single = sum(bool(s.correct(s.single)) for s in known)
        text.append(", ").append(f"{single}{of}", "bold").append(" by one sample")
    return text


def _legend(*, known: bool, scored: bool) -> Text:
    """What the marks mean."""
    parts = ["✓ right, ✗ wrong"] * known + ["PRM: log-odds"] * scored
    parts += ["×: proposals", "†: died", "weight: at the end"]
    return Text(" · ".join(parts), "dim")


def _answer(answer: str | None, correct: bool | None) -> Text:
    text = Text().append(answer or "none", "bold" if answer else "yellow")
    if correct is not None:
        text.append(" ✓" if correct else " ✗", "bold green" if correct else "bold red")
    return text
