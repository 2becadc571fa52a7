"""`pfjax plan`: the options and the exit code; the planning is in `pfjax.plan`."""

from typing import Annotated

import typer

from pfjax.cli import terminal
from pfjax.cli.errors import one_sentence
from pfjax.cli.options import DEBUG, DTYPE, JSON, MAX_TOKENS, STEP_TOKENS


def plan(
    policy: Annotated[
        str, typer.Option(help="A published name, embedded:NAME, or a folder with config.json.")
    ] = "Qwen2.5-7B",
    prm: Annotated[str, typer.Option(help="The same, or none.")] = "Qwen2.5-Math-PRM-7B",
    device: Annotated[
        str, typer.Option(help="H100, H200, A100-40GB, A100-80GB, v4, v5e, v5p or v6e.")
    ] = "H200",
    mesh: Annotated[
        str | None,
        typer.Option(
            help="PROBLEMxMODEL devices, such as 2x4.", show_default="1 x the smallest that fits"
        ),
    ] = None,
    dtype: DTYPE = "bfloat16",
    weight_format: Annotated[
        str | None, typer.Option(help="int8 or fp8 for the layers.", show_default="as dtype")
    ] = None,
    kv_format: Annotated[
        str | None,
        typer.Option(help="int8 for the particles' own caches.", show_default="as dtype"),
    ] = None,
    particles: Annotated[int, typer.Option(help="Of one problem.")] = 32,
    problems: Annotated[int, typer.Option(help="In one batch.")] = 8,
    prompt_tokens: Annotated[int, typer.Option(help="Of a prompt.")] = 256,
    max_tokens: MAX_TOKENS = None,
    step_tokens: STEP_TOKENS = None,
    max_steps: Annotated[
        int | None, typer.Option(help="Of a solution.", show_default="the policy's, or 40")
    ] = None,
    prm_kind: Annotated[
        str | None,
        typer.Option(help="How the PRM reads solutions, such as skywork.", show_default="as noted"),
    ] = None,
    compile: Annotated[
        bool, typer.Option("--compile", help="Compile a step for the TPU slice, without a TPU.")
    ] = False,
    as_json: JSON = False,
    debug: DEBUG = False,
) -> None:
    """Say whether a policy and a PRM fit devices, and how fast they could be; loads nothing.

    Weights and caches are counted from the shapes that loading and searching would allocate, what
    a step needs for a while is estimated. Speeds are ceilings of the hardware, not forecasts.

    --kv-format int8 is `pfjax.Execution(kv_format="int8")`: prompts and the step in progress stay in dtype.

    --compile needs pfjax[tpu] and minutes: the compiler then says what it allocates, which
    collectives stand in the token loops, and whether a cache is copied there.

    Exit code 0: it fits. 1: it does not; one sentence says what to change. 2: bad input.

    JSON keys: fits, advice, notes, device, mesh (problem, model, chosen), dtype, weight_format,
    kv_format, particles, problems, prompt_tokens, budget (step_tokens, max_tokens, max_steps), policy
    and prm (name, architecture, head, parameters, weight_bytes_per_device, kv_bytes_per_token and
    kv_bytes_per_token_per_device of a solution, replicated), memory (bytes on a device: policy_weights,
    prm_weights, tables, prompts, particles, moved, buffers, activations, total, capacity), largest
    (problems, particles, rows) and roofline (weight_bytes_streamed, decode and scoring with their
    bytes, operations, seconds and bound, move_seconds, generation_seconds, tokens_per_second,
    tokens_per_second_with_scoring) and compiled (null without --compile; topology, seconds, bytes on
    a device: arguments, temporaries, outputs, aliased, total; in_loop, cache_copies).
    """
    with one_sentence(debug):
        from pfjax.plan import Request, make_plan, report

        found = make_plan(
            Request(
                policy=policy,
                prm=None if prm.lower() == "none" else prm,
                device=device,
                mesh=mesh,
                dtype=dtype,
                weight_format=weight_format,
                kv_format=kv_format,
                particles=particles,
                problems=problems,
                prompt_tokens=prompt_tokens,
                max_tokens=max_tokens,
                step_tokens=step_tokens,
                max_steps=max_steps,
                prm_kind=prm_kind,
            )
        )
        compiled = _compiled(found.setup) if compile else None
        if as_json:
            terminal.print_json(report.document(found, compiled))
        else:
            report.show(found, compiled)
        if not found.fits:
            raise typer.Exit(1)


def _compiled(setup):
    import jax

    from pfjax.plan.compile import check

    jax.config.update("jax_platforms", "cpu")  # or a machine with libtpu looks for a TPU
    with terminal.spinner() as say:
        say(f"compiling for {setup.problem * setup.model} x {setup.device.name}")
        return check(setup)
