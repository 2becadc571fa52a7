"""Options that several commands have."""

from typing import Annotated

import typer

METHODS = "pf, paper, best-of-n, weighted-best-of-n, majority, sample"
RECIPES = "embedded-small, embedded-large, embedded-prm, distil"
DTYPES = ("float32", "bfloat16", "float16")
PRM_KINDS = "qwen, qwen-once, skywork, rlhflow, math-shepherd"
DEBUG = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
DTYPE = Annotated[str, typer.Option(help="Of weights and caches: bfloat16, float16 or float32.")]
MAX_TOKENS = Annotated[
    int | None, typer.Option(help="Of a solution.", show_default="the policy's, or 1024")
]
STEP_TOKENS = Annotated[
    int | None, typer.Option(help="Of a step.", show_default="the policy's, or 256")
]
JSON = Annotated[bool, typer.Option("--json", help="Print one JSON document, nothing else.")]
