"""`pfjax bench`: the options; the measuring is in `pfjax.bench`."""

from typing import Annotated

import typer

from pfjax.cli import terminal
from pfjax.cli.errors import interruptible, one_sentence
from pfjax.cli.options import DEBUG, DTYPE, JSON, MAX_TOKENS, STEP_TOKENS


def bench(
    policy: Annotated[
        str, typer.Option(help="embedded:NAME or a Hugging Face folder; with --random see there.")
    ] = "embedded:small",
    prm: Annotated[str, typer.Option(help="The same.")] = "embedded:prm",
    particles: Annotated[
        int | None, typer.Option(help="Of one problem.", show_default="16; 4 if small")
    ] = None,
    num_problems: Annotated[
        int | None, typer.Option(help="Built-in problems.", show_default="32; 2 if small")
    ] = None,
    repeats: Annotated[
        int | None,
        typer.Option(help="Figures are medians of so many.", show_default="5; 2 if small"),
    ] = None,
    dtype: DTYPE = "float32",
    random: Annotated[
        bool,
        typer.Option(
            "--random",
            help="Random weights; names then are those of `pfjax plan` or a config.json.",
        ),
    ] = False,
    max_tokens: MAX_TOKENS = None,
    step_tokens: STEP_TOKENS = None,
    small: Annotated[
        bool, typer.Option("--small", help="A few seconds, to see that it runs; not a measurement.")
    ] = False,
    as_json: JSON = False,
    debug: DEBUG = False,
) -> None:
    """Measure this machine's copy bandwidth and matmul rate, and the engine against them.

    One device, one table: prefill, decoding of one token for all rows, scoring of a step, a move of
    caches after resampling, each with its share of the two ceilings, then whole solves beside their
    lower bound. Bytes are those that must be read (weights and allocated cache columns) or moved (rows
    that change), operations those of unpadded tokens. About a minute on two cores.

    Exit code 2: bad input.

    JSON keys: machine, options, batch, rows, budget, matrix_weights, ceilings (copy, matmul,
    matmul_at_decoding: per_second, seconds, amount, how), parts (prefill_policy, prefill_prm, decode,
    scoring and, if any row moves, move: what, seconds, tokens, operations, bytes_moved,
    tokens_per_second, of_copy, of_matmul, bound) and solve (problems, seconds, policy_tokens,
    prm_tokens, bound_seconds, ratio, first_seconds, compilations, problems_per_second,
    policy_tokens_per_second, prm_tokens_per_second).
    """
    with one_sentence(debug):
        from pfjax.bench import Options, report, run

        options = Options(
            policy=policy,
            prm=prm,
            particles=particles,
            num_problems=num_problems,
            repeats=repeats,
            dtype=dtype,
            random=random,
            max_tokens=max_tokens,
            step_tokens=step_tokens,
            small=small,
        ).checked()
        with terminal.progress_bar("bench") as progress:
            found = interruptible(lambda: run(options, progress))
        if as_json:
            terminal.print_json(report.document(found))
        else:
            report.show(found)
