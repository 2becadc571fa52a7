"""Options that several commands have."""

from typing import Annotated

import typer

DEBUG = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
JSON = Annotated[bool, typer.Option("--json", help="Print one JSON document, nothing else.")]
