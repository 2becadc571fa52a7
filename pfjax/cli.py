"""The command line. Heavy modules are imported inside the commands, so that --help is quick.

Exit codes: 0 done; 1 a question ended without an answer, or a plan does not fit; 2 bad input, one
sentence on stderr; 130 Ctrl-C.
"""

import inspect
import io
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from pfjax import _terminal as terminal
from pfjax._bench import bench
from pfjax._errors import INTERRUPTED, interruptible, leave_now, one_sentence
from pfjax._options import DEBUG, JSON
from pfjax._plan import plan

METHODS = "pf, paper, best-of-n, weighted-best-of-n, majority, sample"
RECIPES = "embedded-small, embedded-large, embedded-prm, distil"
SEED = typer.Option(help="One seed, one result.")

app = typer.Typer(
    help="Particle filtering for language-model reasoning.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(plan)
app.command()(bench)


def main() -> None:
    """The `pfjax` command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        app()
    except KeyboardInterrupt:
        leave_now(INTERRUPTED)
    except SystemExit as end:
        if end.code == INTERRUPTED:
            leave_now(INTERRUPTED)
        raise


def _version(wanted: bool) -> None:
    if wanted:
        from pfjax import __version__

        typer.echo(f"pfjax {__version__}")
        raise typer.Exit


@app.callback()
def _app(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


@app.command()
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
            _use_compilation_cache()
            from pfjax import _solve

            options = _solve.Options(
                policy, prm, method, particles, seed, num_problems, temperature, tau
            ).checked()
            solved = interruptible(lambda: _solve.run(question, options, report))
        if as_json:
            terminal.print_json(_solve.document(options, solved))
        else:
            from pfjax import show

            show.report(options, solved, None if full else show.LINES)
        if question is not None and solved[0].result.answer is None:
            raise typer.Exit(1)


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help=f"One of {RECIPES}.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run.", show_default="runs/RECIPE")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="One seed, one result.", show_default="the recipe's")
    ] = None,
    as_json: JSON = False,
    debug: DEBUG = False,
) -> None:
    """Train a model by a recipe; run the same command again to resume.

    Prints the final metrics. JSON keys: recipe, out, metrics.
    """
    with one_sentence(debug):
        _use_compilation_cache()
        from pfjax.recipes import RECIPES

        if recipe not in RECIPES:
            raise ValueError(f"recipe is {recipe!r}, wanted one of {', '.join(RECIPES)}.")
        folder = out or Path("runs") / recipe
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"--out {folder} is a file; give a folder.")
        run = RECIPES[recipe].run
        if seed is not None and "seed" not in inspect.signature(run).parameters:
            raise ValueError(f"recipe {recipe!r} has a fixed seed; leave --seed out.")
        options = {} if seed is None else {"seed": seed}
        typer.echo(f"{recipe}: {RECIPES[recipe].summary}", err=True)
        with terminal.progress_bar(recipe) as progress:
            found = run(folder, progress, **options)
        metrics = {name: terminal.plain(value) for name, value in found.items()}
        if as_json:
            terminal.print_json({"recipe": recipe, "out": str(folder), "metrics": metrics})
        else:
            terminal.print_rows(terminal.flat(metrics))
            typer.echo(f"written to {folder}")


@app.command()
def models(as_json: JSON = False, debug: DEBUG = False) -> None:
    """List the embedded checkpoints.

    JSON: a list of name, architecture, parameters, bytes, layers, hidden_size, context.
    """
    with one_sentence(debug):
        from pfjax._checkpoints import embedded

        found = embedded()
        if as_json:
            terminal.print_json(found)
            return
        heads = ["name", "parameters", "on disk", "architecture"]
        rows = [
            [
                m["name"],
                f"{m['parameters'] / 1e6:.2f} M",
                f"{m['bytes'] / 2**20:.1f} MiB",
                f"{m['architecture']}, {m['layers']} layers of {m['hidden_size']}",
            ]
            for m in found
        ]
        terminal.print_rows(rows, heads)


def _use_compilation_cache() -> None:
    """Compiled programs outlive the process; a cache that the user has set stays."""
    import jax

    if jax.config.jax_compilation_cache_dir is not None:  # pyright: ignore[reportAttributeAccessIssue]
        return
    base = os.environ.get("PFJAX_CACHE") or os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    folder = Path(base).expanduser() / "pfjax" / "xla"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


if __name__ == "__main__":
    main()
