"""Strict JAX for every test: 8 virtual CPU devices, no silent dtype or rank promotion."""

import os
import tempfile
from pathlib import Path

import jax

jax.config.update("jax_num_cpu_devices", 8)
# With jax_enable_x64 what the tests themselves write down is float64, as what a user writes is.
promotion = "standard" if jax.config.jax_enable_x64 else "strict"
jax.config.update("jax_numpy_dtype_promotion", promotion)
jax.config.update("jax_numpy_rank_promotion", "raise")
_CACHE = Path(os.environ.get("PFJAX_TEST_CACHE", Path(tempfile.gettempdir()) / "pfjax-test-cache"))
jax.config.update("jax_compilation_cache_dir", str(_CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
