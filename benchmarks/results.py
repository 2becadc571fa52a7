"""Writes benchmarks/RESULTS.md, one section a script."""

import datetime
import os
import platform
from pathlib import Path

import jax


def machine() -> str:
    """One line: device, cores, versions, date."""
    device = jax.devices()[0]
    cores = len(os.sched_getaffinity(0))
    today = datetime.date.today().isoformat()
    return (
        f"{device.device_kind} ({device.platform}), {cores} cores, Python {platform.python_version()}, "
        f"jax {jax.__version__}, {today}."
    )


def write_section(path: Path, title: str, body: str) -> None:
    """Replaces the section of that title, or appends it."""
    text = (
        path.read_text()
        if path.exists()
        else "# Results\n\nWritten by the scripts in this folder.\n"
    )
    sections = text.split("\n## ")
    kept = [s for s in sections[1:] if not s.startswith(f"{title}\n")]
    parts = [sections[0].rstrip()] + [s.rstrip() for s in kept] + [f"{title}\n\n{body}"]
    path.write_text("\n\n## ".join(parts) + "\n")
