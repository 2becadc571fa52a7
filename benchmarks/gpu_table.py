"""The GPU section of RESULTS.md from the rows of gpu.json."""

import statistics

GOALS = (
    ("decode bf16 x 32, share of copy bandwidth", 0.70),
    ("decode int8 x 32, share of copy bandwidth", 0.70),
    ("decode int8 / bf16, tokens/s x 32", 1.50),
    ("score x 32, share of product rate", 0.50),
    ("decode bf16 / transformers compiled, tokens/s x 32", 1.00),
)


def body(report: dict) -> str:
    """Machine, ceilings, a table of parts, goals, what failed and what was skipped."""
    good = [row for row in report["rows"] if "error" not in row]
    rates = _ceilings(good)
    shares = [_figures(row, rates) for row in good if "ceilings" not in row]
    lines = [f"{report['machine']} {report['seconds']:.0f} s.", ""]
    if rates:
        lines += [
            f"Ceilings: copy {rates['copy'] / 1e9:.0f} GB/s, read and written; read alone "
            f"{rates['read'] / 1e9:.0f} GB/s; bf16 product {rates['product'] / 1e12:.1f} TFLOP/s.",
            "",
        ]
    head = (
        "part | variant | ms | ms per iteration | tokens/s | GB/s | of copy | TFLOP/s | of product"
    )
    head += " | compilation s | temporaries GB"
    lines += [f"| {head} |", "|---|---" + "|---" * 9 + "|"]
    lines += [_line(figures) for figures in shares]
    lines += ["", "| goal | wanted | measured | |", "|---|---|---|---|"]
    lines += [_goal(name, wanted, shares) for name, wanted in GOALS]
    peers = {row["versions"] for row in good if "versions" in row}
    lines += [""] + [f"Peer: {versions}." for versions in peers]
    lines += [f"Failed: {_name(row)}: {row['error']}." for row in report["rows"] if "error" in row]
    lines += [f"Skipped for lack of time: {'; '.join(report['skipped'])}."] * bool(
        report["skipped"]
    )
    return "\n".join(lines).rstrip()


def _ceilings(rows: list[dict]) -> dict[str, float]:
    found = next((row["ceilings"] for row in rows if "ceilings" in row), None)
    if found is None:
        return {}
    rate = {
        name: kind.get("bytes", kind.get("operations")) / statistics.median(kind["seconds"])
        for name, kind in found.items()
    }
    return rate | {"copy": max(rate["copied"], rate["incremented"])}


def _figures(row: dict, rates: dict[str, float]) -> dict:
    """What the columns show of a row."""
    seconds = statistics.median(row["seconds"])
    found = {"part": row["part"], "variant": row["variant"], "ms": 1e3 * seconds}
    iterations = row.get("iterations")
    if iterations:
        found["iteration"] = 1e3 * seconds / iterations
    tokens = row.get("tokens", row["rows"] * iterations if iterations else None)
    if tokens:
        found["tokens"] = tokens / seconds
    if "bytes" in row:
        found["bandwidth"] = row["bytes"] * (iterations or 1) / seconds
        found["of copy"] = found["bandwidth"] / rates["copy"] if rates else None
    if "operations" in row:
        found["rate"] = row["operations"] / seconds
        found["of product"] = found["rate"] / rates["product"] if rates else None
    found["compilation"] = row.get("compile_seconds", row.get("first_seconds"))
    found["temporaries"] = row.get("temporaries")
    return found


def _line(found: dict) -> str:
    columns = (
        ("ms", "{:.2f}", 1),
        ("iteration", "{:.3f}", 1),
        ("tokens", "{:.0f}", 1),
        ("bandwidth", "{:.0f}", 1e9),
        ("of copy", "{:.0%}", 1),
        ("rate", "{:.1f}", 1e12),
        ("of product", "{:.0%}", 1),
        ("compilation", "{:.1f}", 1),
        ("temporaries", "{:.2f}", 1e9),
    )
    cells = [found["part"], found["variant"]]
    for name, form, unit in columns:
        value = found.get(name)
        cells.append("" if value is None else form.format(value / unit))
    return f"| {' | '.join(cells)} |"


def _goal(name: str, wanted: float, shares: list[dict]) -> str:
    by_part = {f["part"]: f for f in reversed(shares) if f["variant"] in ("", "peer")}

    def figure(part: str, column: str) -> float | None:
        return by_part.get(part, {}).get(column)

    if "share" in name:
        column = "of copy" if "copy" in name else "of product"
        measured = figure(name.split(",")[0], column)
    else:
        over = "decode int8 x 32" if "int8" in name else "decode bf16 x 32"
        under = "decode bf16 x 32" if "int8" in name else "transformers compiled x 32"
        a, b = figure(over, "tokens"), figure(under, "tokens")
        measured = a / b if a and b else None
    if measured is None:
        return f"| {name} | {wanted:.2f} | | not measured |"
    return (
        f"| {name} | {wanted:.2f} | {measured:.2f} | {'met' if measured >= wanted else 'not met'} |"
    )


def _name(row: dict) -> str:
    return " ".join(f"{row['part']} {row['variant']}".split())
