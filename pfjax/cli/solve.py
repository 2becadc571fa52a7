"""`pfjax solve`: the options; the search is in `solving.py`, what is shown in `show.py`."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from pfjax.cli import terminal
from pfjax.cli.errors import interruptible, one_sentence
from pfjax.cli.options import DEBUG, JSON, MAX_TOKENS, METHODS, PRM_KINDS, STEP_TOKENS
from pfjax.cli.request import Asked, Options, questions_of
from pfjax.settings import asked
from pfjax.settings.budget import Budget
from pfjax.settings.cache import compilation_cache
from pfjax.settings.sampling import Sampling

OWN = "the policy's"


def _option(help: str, **how):
    return typer.Option(help=help, **how)


def solve(
    question: Annotated[
        str | None, typer.Argument(help="A problem; without one, held-out built-in problems.")
    ] = None,
    file: Annotated[
        Path | None, _option('Questions: a JSON object with "question" a line, perhaps "answer".')
    ] = None,
    particles: Annotated[
        int | None, _option("Solutions in parallel.", show_default="16; 1 for sample")
    ] = None,
    method: Annotated[
        str | None, _option(f"One of {METHODS}.", show_default="pf; majority without a PRM")
    ] = None,
    policy: Annotated[
        str, _option("embedded:small, embedded:large, or a Hugging Face folder.")
    ] = "embedded:small",
    prm: Annotated[
        str,
        _option(
            "embedded:prm, a Hugging Face folder, self (the policy is asked), or none; "
            "auto: embedded:prm for embedded policies, none for others."
        ),
    ] = "auto",
    prm_kind: Annotated[
        str | None, _option(f"How the PRM reads: {PRM_KINDS}.", show_default="the folder's")
    ] = None,
    seed: Annotated[
        int | None, _option("One seed, one result.", show_default="0; 9 for the built-in problems")
    ] = None,
    num_problems: Annotated[int, _option("Built-in problems; the seed chooses which.")] = 3,
    temperature: Annotated[
        float | None, _option("Of the policy's sampling; 0 is greedy.", show_default=OWN)
    ] = None,
    top_p: Annotated[float | None, _option("Mass of tokens kept.", show_default=OWN)] = None,
    top_k: Annotated[int | None, _option("Tokens kept; 0: all.", show_default=OWN)] = None,
    min_p: Annotated[
        float | None, _option("Kept from this share of the likeliest on.", show_default=OWN)
    ] = None,
    max_tokens: MAX_TOKENS = None,
    step_tokens: STEP_TOKENS = None,
    tau: Annotated[float, _option("Divides the PRM's log-odds.")] = 1.0,
    system: Annotated[str | None, _option("System text.", show_default="the template's")] = None,
    user: Annotated[
        str | None, _option("The user's turn, with {question} in it.", show_default=OWN)
    ] = None,
    template: Annotated[
        str | None, _option('A chat template in Jinja, or "plain".', show_default=OWN)
    ] = None,
    template_arg: Annotated[
        list[str] | None, _option("NAME=VALUE for the template; repeatable.")
    ] = None,
    delimiter: Annotated[
        list[str] | None, _option("Text that ends a step; repeatable.", show_default="a blank line")
    ] = None,
    stop: Annotated[list[str] | None, _option("Text that ends a solution; repeatable.")] = None,
    show_prompt: Annotated[
        bool, typer.Option("--show-prompt", help="Print what the policy reads, and stop.")
    ] = False,
    dtype: Annotated[str, _option("Of weights: float32, bfloat16 or float16.")] = "float32",
    weight_format: Annotated[
        str | None, _option("int8 or fp8: matrices in 8 bits.", show_default="as dtype")
    ] = None,
    mesh: Annotated[
        str | None, _option("PROBLEMxMODEL devices, such as 1x4.", show_default="one device")
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="Fold no branch of the tree.")] = False,
    as_json: JSON = False,
    debug: DEBUG = False,
) -> None:
    """Solve a question, or a few built-in problems, and show the tree of particles.

    Every line of the tree is a proposed step with the PRM's log-odds and the number of particles
    that made it; dim branches died in resampling. The steps and answers of the built-in problems
    are checked, and one plain sample is shown beside.

    Exit code 1: a question ended without an answer. 2: bad input. 130: Ctrl-C.

    JSON keys: policy, prm, method, particles, seed, num_problems, tau, sampling, budget,
    summary (problems, solved, solved_by_one_sample, policy_tokens, prm_tokens, seconds) and
    problems (index, truth, correct, single, and what Result.to_dict has).
    """
    with one_sentence(debug):
        options = Options(
            policy=policy,
            prm=prm,
            prm_kind=prm_kind,
            method=method,
            particles=particles,
            seed=seed,
            num_problems=num_problems,
            sampling=Sampling(temperature, top_p, top_k, min_p),
            budget=Budget(step_tokens or 0, max_tokens or 0),
            tau=tau,
            dtype=dtype,
            weight_format=weight_format,
            mesh=mesh,
            system=system,
            user=user,
            template=template,
            template_arguments=tuple(template_arg or ()),
            delimiter=tuple(delimiter or ()),
            stop=tuple(stop or ()),
        ).checked()
        questions = _questions(question, file)
        for name, value in (("max-tokens", max_tokens), ("step-tokens", step_tokens)):
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}, wanted 1 or more.")
        if show_prompt:
            from pfjax.cli import solving

            said = questions[0].question if questions else "{question}"
            print(solving.prompt_of(options, said))
            return
        with terminal.spinner() as report:
            # Imports too are done in that thread: a Ctrl-C in the midst of one may be lost.
            options, solved = interruptible(lambda: _searched(questions, options, report))
        if as_json:
            from pfjax.cli import solving

            terminal.print_json(solving.document(options, solved))
        else:
            from pfjax.cli import show

            show.report(options, solved, None if full else show.LINES)
        if questions and any(s.result.answer is None for s in solved):
            raise typer.Exit(1)


def _searched(questions: list[Asked], options: Options, report: Callable[[str], None]):
    compilation_cache()
    from pfjax.cli import solving

    return solving.run(questions, options, report)


def _questions(question: str | None, file: Path | None) -> list[Asked]:
    """The question, or those of a file; none for the built-in problems."""
    if question is not None and file is not None:
        raise ValueError("question and --file are both given; give one of them.")
    if file is not None:
        return questions_of(file)
    return [] if question is None else [Asked(asked.listed(question)[0])]
