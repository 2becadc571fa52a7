"""Writes benchmarks/RESULTS.md, one section a script."""

from pathlib import Path

from pfjax import bench


def machine() -> str:
    """One line: device, cores, versions, date."""
    here = bench.machine()
    return (
        f"{here['device']} ({here['platform']}), {here['cores']} cores, Python {here['python']}, "
        f"jax {here['jax']}, {here['date']}."
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
