"""Compiled programs outlive the process."""

import os
from pathlib import Path


def compilation_cache(folder: str | Path | None = None) -> Path | None:
    """Keeps compiled programs in `folder`, so that the next process need not compile them again.

    None: in $PFJAX_CACHE, $XDG_CACHE_HOME or ~/.cache, unless jax_compilation_cache_dir is set already. The
    command line does this by itself. Returns the folder, or None if it cannot be written.
    """
    import jax

    known = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
    if folder is None and known is not None:
        return Path(known)
    base = os.environ.get("PFJAX_CACHE") or os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    path = (
        Path(base).expanduser() / "pfjax" / "xla" if folder is None else Path(folder).expanduser()
    )
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    jax.config.update("jax_compilation_cache_dir", str(path))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return path
