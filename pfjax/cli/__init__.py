"""The command line. Heavy modules are imported inside the commands, so that --help is quick.

Exit codes: 0 done; 1 a question ended without an answer, or a plan does not fit; 2 bad input, one
sentence on stderr; 130 Ctrl-C.
"""

import io
import sys
from typing import Annotated

import typer

from pfjax.cli import bench, download, models, plan, solve, train
from pfjax.cli.errors import INTERRUPTED, leave_now

app = typer.Typer(
    help="Particle filtering for language-model reasoning.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (
    solve.solve,
    train.train,
    plan.plan,
    bench.bench,
    models.models,
    download.download,
):
    app.command()(command)


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
