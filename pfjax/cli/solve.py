"""`pfjax solve`: the options; the search is in `solving.py`, what is shown in `show.py`."""

from typing import Annotated

import typer

from pfjax.cli import terminal
from pfjax.cli.errors import interruptible, one_sentence
from pfjax.cli.options import DEBUG, JSON, METHODS, SEED
from pfjax.settings.cache import compilation_cache


def solve(
    question: Annotated[
        str | None, typer.Argument(help="A problem; without one, held-out built-in problems.")
    ] = None,
    particles: Annotated[
        int | None, typer.Option(help="Solutions in parallel.", show_default="16; 1 for sample")
    ] = None,
    method: Annotated[str, typer.Option(help=f"One of {METHODS}.")] = "pf",
    policy: Annotated[
        str, typer.Option(help="embedded:small, embedded:large, or a Hugging Face folder.")
    ] = "embedded:small",
    prm: Annotated[
        str, typer.Option(help="embedded:prm, or a Hugging Face folder.")
    ] = "embedded:prm",
    seed: Annotated[int, SEED] = 0,
    num_problems: Annotated[
        int, typer.Option(help="Built-in problems; the seed chooses which.")
    ] = 3,
    temperature: Annotated[float, typer.Option(help="Of the policy's sampling.")] = 1.0,
    tau: Annotated[float, typer.Option(help="Divides the PRM's log-odds.")] = 1.0,
    full: Annotated[bool, typer.Option("--full", help="Fold no branch of the tree.")] = False,
    as_json: JSON = False,
    debug: DEBUG = False,
) -> None:
    """Solve a question, or a few built-in problems, and show the tree of particles.

    Every line of the tree is a proposed step with the PRM's log-odds and the number of particles
    that made it; dim branches died in resampling. The steps and answers of the built-in problems
    are checked, and one plain sample is shown beside.

    Exit code 1: the question ended without an answer. 2: bad input. 130: Ctrl-C.

    JSON keys: the options (policy, prm, method, particles, seed, num_problems, temperature, tau),
    summary (problems, solved, solved_by_one_sample, policy_tokens, prm_tokens, seconds) and
    problems (index, question, truth, answer, correct, single, solutions, counts, log_evidence,
    method, status, ess, tree).
    """
    with one_sentence(debug):
        with terminal.spinner() as report:
            compilation_cache()
            from pfjax.cli import solving

            options = solving.Options(
                policy, prm, method, particles, seed, num_problems, temperature, tau
            ).checked()
            solved = interruptible(lambda: solving.run(question, options, report))
        if as_json:
            terminal.print_json(solving.document(options, solved))
        else:
            from pfjax.cli import show

            show.report(options, solved, None if full else show.LINES)
        if question is not None and solved[0].result.answer is None:
            raise typer.Exit(1)
