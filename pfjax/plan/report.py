"""A plan as a table for a terminal of 80 columns, and as JSON."""

from typing import Literal

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from pfjax.plan.compile import Compiled
from pfjax.plan.devices import RESERVE
from pfjax.plan.planner import Plan
from pfjax.plan.roofline import Ceiling
from pfjax.plan.setup import Setup
from pfjax.plan.shapes import kv_bytes
from pfjax.plan.weights import Model, count, replicated

_PARTS = {
    "policy_weights": "weights of the policy",
    "prm_weights": "weights of the PRM",
    "tables": "tables of token ids",
    "prompts": "prompt caches",
    "particles": "particles and caches",
    "moved": "caches moved",
    "buffers": "step buffers",
    "activations": "activations",
}
_ESTIMATED = ("moved", "activations")


def document(plan: Plan, compiled: Compiled | None = None) -> dict:
    """The JSON of `pfjax plan --json`; bytes are those of one device unless the name says otherwise."""
    setup, roof, memory = plan.setup, plan.roofline, plan.memory
    return {
        "fits": plan.fits,
        "advice": plan.advice,
        "notes": plan.notes,
        "device": plan.device._asdict() | {"reserve": plan.device.reserve},
        "mesh": {"problem": setup.problem, "model": setup.model, "chosen": plan.chosen},
        "dtype": setup.dtype,
        "weight_format": setup.weight_format,
        "kv_format": setup.kv_format,
        "particles": setup.particles,
        "problems": setup.problems,
        "prompt_tokens": setup.prompt_tokens,
        "budget": setup.budget._asdict(),
        "policy": _model(plan, setup.policy, memory.policy_weights),
        "prm": None if setup.prm is None else _model(plan, setup.prm, memory.prm_weights),
        "memory": memory._asdict() | {"total": memory.total, "capacity": setup.capacity},
        "largest": plan.largest._asdict(),
        "roofline": roof._asdict()
        | {"decode": _ceiling(roof.decode), "scoring": roof.scoring and _ceiling(roof.scoring)},
        "compiled": compiled and compiled._asdict() | {"total": compiled.total},
    }


def _model(plan: Plan, model: Model, weights: int) -> dict:
    setup = plan.setup
    return {
        "name": model.name,
        "architecture": model.config.architecture,
        "head": model.head,
        "parameters": count(model),
        "weight_bytes_per_device": weights,
        "kv_bytes_per_token": _kv_bytes(setup, model, 1),
        "kv_bytes_per_token_per_device": _kv_bytes(setup, model, setup.model),
        "replicated": replicated(model, setup.model),
    }


def _kv_bytes(setup: Setup, model: Model, size: int) -> int:
    return kv_bytes(model, setup.dtype, size, setup.kv_format)


def _ceiling(ceiling: Ceiling) -> dict:
    return ceiling._asdict() | {"seconds": ceiling.seconds, "bound": ceiling.bound}


def show(plan: Plan, compiled: Compiled | None = None, console: Console | None = None) -> None:
    """The plan on stdout."""
    console = console or Console()
    parts = [_head(plan), Text(""), _models(plan), Text(""), _memory(plan), Text("")]
    parts += [_speed(plan), Text("")]
    if compiled is not None:
        parts += [_compiled(plan, compiled), Text("")]
    console.print(Group(*parts, _verdict(plan)))


def _head(plan: Plan) -> Text:
    setup, budget = plan.setup, plan.setup.budget
    text = Text(setup.policy.name, "bold")
    text.append(f" with {setup.prm.name}" if setup.prm else " without a PRM")
    text.append(f"\non {setup.problem * setup.model} x {plan.device.name}", "bold")
    stored = f", weights {setup.weight_format}" if setup.weight_format else ""
    stored += f", KV {setup.kv_format}" if setup.kv_format else ""
    text.append(f", mesh {setup.problem}x{setup.model} (problem x model), {setup.dtype}{stored}")
    return text.append(
        f"\n{setup.problems} problems x {setup.particles} particles; {setup.prompt_tokens} prompt tokens, "
        f"{budget.max_tokens} solution tokens, steps of {budget.step_tokens}",
        "dim",
    )


def _models(plan: Plan) -> Table:
    setup, memory = plan.setup, plan.memory
    held = [(setup.policy, memory.policy_weights, "policy")]
    held += [(setup.prm, memory.prm_weights, "PRM")] if setup.prm else []
    caches = [[_kv_bytes(setup, model, m) for m in (1, setup.model)] for model, *_ in held]
    rows = [["", *(title for *_, title in held)]]
    rows.append(["parameters", *(f"{count(model):,}" for model, *_ in held)])
    rows.append(["weights on a device", *(_gb(weights) for _, weights, _ in held)])
    rows.append(["cache of a token", *(f"{whole:,} B" for whole, _ in caches)])
    rows.append(["on a device", *(f"{local:,} B" for _, local in caches)])
    return _table(rows, "right")


def _memory(plan: Plan) -> Table:
    capacity, total = plan.setup.capacity, plan.memory.total
    rows = [["memory of a device", "", ""]]
    for name, used in plan.memory._asdict().items():
        if used:
            about = "about " if name in _ESTIMATED else ""
            rows.append([_PARTS[name], about + _gb(used), f"{used / capacity:.1%}"])
    device = plan.device
    rows.append(["together", _gb(total), f"{total / capacity:.1%}"])
    limit = f"{device.hbm_bytes / 1e9:g} GB less {RESERVE:.0%}"
    rows.append(["there is", _gb(capacity), limit])
    found = plan.largest
    fits = f"{found.problems:,} x {plan.setup.particles} particles"
    rows.append(["room for problems", fits, f"or {plan.setup.problems} x {found.particles:,}"])
    return _table(rows)


def _speed(plan: Plan) -> Table:
    roof, budget = plan.roofline, plan.setup.budget
    rows = [["ceilings of speed", "", ""]]
    stream = f"{_gb(roof.weight_bytes_streamed)} of weights read"
    rows.append(
        ["one token, all rows", _time(roof.decode.seconds), f"{_bound(roof.decode)}, {stream}"]
    )
    rows.append(["decoding", f"{roof.tokens_per_second:,.0f} tokens/s", ""])
    if roof.scoring is not None:
        share = roof.scoring.seconds / roof.generation_seconds
        what = f"{_bound(roof.scoring)}, {share:.0%} of a generation"
        rows.append([f"scoring {budget.step_tokens} tokens", _time(roof.scoring.seconds), what])
    rows.append(["moving caches", _time(roof.move_seconds), "a generation"])
    speed = f"{roof.tokens_per_second_with_scoring:,.0f} tokens/s"
    rows.append(["decoding and all", speed, f"{_time(roof.generation_seconds)} a generation"])
    return _table(rows)


def _compiled(plan: Plan, compiled: Compiled) -> Table:
    loops = ", ".join(f"{n} {kind}" for kind, n in sorted(compiled.in_loop.items())) or "none"
    off = plan.memory.total / compiled.total - 1
    rows = [[f"compiled for {compiled.topology}", "", ""]]
    rows.append(["weights, particles, prompts", _gb(compiled.arguments), ""])
    rows.append(["temporaries", _gb(compiled.temporaries), ""])
    rows.append(["together", _gb(compiled.total), f"the plan says {off:+.1%}"])
    rows.append(["copies of caches in loops", str(compiled.cache_copies), ""])
    rows.append(["time to compile", _time(compiled.seconds), f"in loops: {loops}"])
    return _table(rows)


def _verdict(plan: Plan) -> Text:
    text = Text(
        "It fits." if plan.fits else "It does not fit. ", "bold green" if plan.fits else "bold red"
    )
    text.append(plan.advice or "")
    for note in plan.notes:
        text.append(f"\n{note}", "dim")
    return text


def _table(rows: list[list[str]], last: Literal["left", "right"] = "left") -> Table:
    """First row dim, first column bold, numbers right; `last` places the last column."""
    table = Table.grid(padding=(0, 2, 0, 0))
    end = len(rows[0]) - 1
    for i in range(end + 1):
        table.add_column(justify=last if i == end else "right" if i else "left")
    for i, (first, *rest) in enumerate(rows):
        table.add_row(
            Text(first, "dim" if i == 0 else "bold"),
            *(Text(cell, "dim" * (i == 0)) for cell in rest),
        )
    return table


def _bound(ceiling: Ceiling) -> str:
    return f"{ceiling.bound}-bound"


def _gb(size: int) -> str:
    return f"{size / 1e9:,.2f} GB" if size >= 1e9 else f"{size / 1e6:,.2f} MB"


def _time(seconds: float) -> str:
    return f"{seconds:,.2f} s" if seconds >= 1 else f"{1e3 * seconds:,.2f} ms"
