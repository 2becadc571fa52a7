"""Strict JAX for every test: 8 virtual CPU devices, no silent dtype or rank promotion."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)
# With jax_enable_x64 what the tests themselves write down is float64, as what a user writes is.
promotion = "standard" if jax.config.jax_enable_x64 else "strict"
jax.config.update("jax_numpy_dtype_promotion", promotion)
jax.config.update("jax_numpy_rank_promotion", "raise")
_CACHE = Path(os.environ.get("PFJAX_TEST_CACHE", Path(tempfile.gettempdir()) / "pfjax-test-cache"))
jax.config.update("jax_compilation_cache_dir", str(_CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Tests of one file run in this process: another takes seconds to start and has nothing to share."""
    files = {argument.split("::")[0] for argument in config.args}
    return 0 if len(files) == 1 and files.pop().endswith(".py") else None


@pytest.fixture(scope="module", autouse=True)
def few_maps() -> Iterator[None]:
    """Forgets compiled programs before they have all the memory maps that Linux gives a process.

    A program on a CPU takes a few dozen maps; at 65 530 the next one to be loaded is a segmentation fault.
    """
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > 30_000:
        jax.clear_caches()
