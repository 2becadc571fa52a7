"""`pfjax train`: runs a recipe."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from pfjax.cli import terminal
from pfjax.cli.errors import interruptible, leave_now, one_sentence
from pfjax.cli.options import DEBUG, JSON, PRM_KINDS, RECIPES
from pfjax.cli.request import questions_of
from pfjax.distill import interruption
from pfjax.settings.cache import compilation_cache

Progress = Callable[[int, int, dict], None]
OF_DISTIL = "the recipe's"


def _option(help: str):
    return typer.Option(help=help, show_default=OF_DISTIL, rich_help_panel="Options of distil")


def train(
    recipe: Annotated[str, typer.Argument(help=f"One of {RECIPES}.")],
    out: Annotated[
        str | None, typer.Option(help="Folder of the run.", show_default="runs/RECIPE")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="One seed, one result.", show_default=OF_DISTIL)
    ] = None,
    policy: Annotated[str | None, _option("What is taught: embedded:small, or a folder.")] = None,
    prm: Annotated[str | None, _option("embedded:prm, a folder, or self.")] = None,
    prm_kind: Annotated[str | None, _option(f"How the PRM reads: {PRM_KINDS}.")] = None,
    questions: Annotated[
        Path | None, _option('What is searched: a JSON object with "question" or "problem" a line.')
    ] = None,
    problems: Annotated[int | None, _option("How many questions.")] = None,
    particles: Annotated[int | None, _option("Solutions in parallel.")] = None,
    steps: Annotated[int | None, _option("Training steps.")] = None,
    temperature: Annotated[float | None, _option("Of the search.")] = None,
    held_out: Annotated[
        int | None, _option("Problems of the embedded task solved before and after.")
    ] = None,
    as_json: JSON = False,
    debug: DEBUG = False,
) -> None:
    """Train a model by a recipe; run the same command again to resume.

    Ctrl-C and SIGTERM finish the step, save, and end with exit code 130 or 143; a second one ends at once.

    Prints the final metrics. JSON keys: recipe, out, metrics.
    """
    given = {
        "seed": seed,
        "policy": policy,
        "prm": prm,
        "prm_kind": prm_kind,
        "problems": problems,
        "particles": particles,
        "steps": steps,
        "temperature": temperature,
        "held_out": held_out,
    }
    with one_sentence(debug), _stopping():
        folder = _folder(out, recipe)
        options: dict = {name: value for name, value in given.items() if value is not None}
        if questions is not None:
            options["questions"] = [a.question for a in questions_of(questions)]
        compilation_cache()
        from pfjax import recipes

        if recipe not in recipes.RECIPES:
            raise ValueError(f"recipe is {recipe!r}, wanted one of {', '.join(recipes.RECIPES)}.")
        chosen = recipes.RECIPES[recipe]
        values = chosen.with_options(recipe, options)
        typer.echo(f"{recipe}: {chosen.summary}", err=True)
        with terminal.progress_bar(recipe) as bar:
            progress = _telling(recipe, bar)
            found = interruptible(lambda: chosen.run(folder, progress, *values))
        metrics = {name: terminal.plain(value) for name, value in found.items()}
        if as_json:
            terminal.print_json({"recipe": recipe, "out": str(folder), "metrics": metrics})
        else:
            terminal.print_rows(terminal.flat(metrics))
            typer.echo(f"written to {folder}")


@contextmanager
def _stopping() -> Iterator[None]:
    """The first SIGINT or SIGTERM stops the work where nothing is lost, a second one at once."""
    try:
        with interruption.watched(at_once=lambda signum: leave_now(128 + signum)):
            yield
    except interruption.Interrupted as stopped:
        typer.echo(f"pfjax: {stopped}; run the same command to go on", err=True)
        raise typer.Exit(128 + stopped.signum) from None


def _folder(out: str | None, recipe: str) -> Path:
    """The folder of the run; nothing is made yet."""
    if out is None:
        return Path("runs") / recipe
    if not out.strip():
        raise ValueError(f"--out is {out!r}, wanted a folder, such as runs/{recipe}.")
    folder = Path(out).expanduser()
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--out {folder} is a file; give a folder.")
    return folder


def _telling(recipe: str, bar: Progress) -> Progress:
    """The bar, and a line when a run goes on."""

    def progress(done: int, total: int, metrics: dict) -> None:
        if "resumed" in metrics:
            typer.echo(f"{recipe}: goes on from step {done} of {total}", err=True)
        else:
            bar(done, total, metrics)

    return progress
