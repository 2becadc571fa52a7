"""`pfjax download`: a checkpoint from the Hugging Face hub."""

from typing import Annotated

import typer

from pfjax.cli import terminal
from pfjax.cli.errors import one_sentence
from pfjax.cli.options import DEBUG, JSON


def download(
    name: Annotated[str, typer.Argument(help="OWNER/NAME on the hub.")],
    revision: Annotated[str | None, typer.Option(help="A branch, tag or commit.")] = None,
    as_json: JSON = False,
    debug: DEBUG = False,
) -> None:
    """Fetch a checkpoint that `solve --policy` and `--prm` take; prints its folder.

    HF_HOME says where it goes, HF_TOKEN who asks. JSON keys: name, folder.
    """
    with one_sentence(debug):
        from huggingface_hub.utils import logging

        from pfjax import models

        logging.set_verbosity_error()  # the sentence says it
        folder = str(models.download(name, revision=revision))
        if as_json:
            terminal.print_json({"name": name, "folder": folder})
        else:
            typer.echo(folder)
