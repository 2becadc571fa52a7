"""`pfjax train`: runs a recipe."""

import inspect
from pathlib import Path
from typing import Annotated

import typer

from pfjax.cli import terminal
from pfjax.cli.errors import one_sentence
from pfjax.cli.options import DEBUG, JSON, RECIPES
from pfjax.settings.cache import compilation_cache


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
        compilation_cache()
        from pfjax import recipes

        if recipe not in recipes.RECIPES:
            raise ValueError(f"recipe is {recipe!r}, wanted one of {', '.join(recipes.RECIPES)}.")
        folder = out or Path("runs") / recipe
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"--out {folder} is a file; give a folder.")
        run = recipes.RECIPES[recipe].run
        if seed is not None and "seed" not in inspect.signature(run).parameters:
            raise ValueError(f"recipe {recipe!r} has a fixed seed; leave --seed out.")
        options = {} if seed is None else {"seed": seed}
        typer.echo(f"{recipe}: {recipes.RECIPES[recipe].summary}", err=True)
        with terminal.progress_bar(recipe) as progress:
            found = run(folder, progress, **options)
        metrics = {name: terminal.plain(value) for name, value in found.items()}
        if as_json:
            terminal.print_json({"recipe": recipe, "out": str(folder), "metrics": metrics})
        else:
            terminal.print_rows(terminal.flat(metrics))
            typer.echo(f"written to {folder}")
