"""Compiled programs are kept, so that a monitor scores its first frame seconds after a restart."""

import hashlib
import logging
import os
import platform
from importlib.metadata import version
from pathlib import Path

import jax

LARGEST_BYTES = 1 << 30

logger = logging.getLogger(__name__)


def keep() -> None:
    """Keeps what JAX compiles in a private folder under the user's cache, one for each kind of host and version, as it
    is native code. JAX_COMPILATION_CACHE_DIR, where it is set, is left as it is. Where nothing can be written, a
    warning says so and nothing is kept.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    try:
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = caches / "flinch" / hashlib.sha256(_host().encode()).hexdigest()[:16]
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except (OSError, RuntimeError) as error:
        logger.warning("what is compiled is not kept (%s), so every start compiles anew", error)
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_compilation_cache_max_size", LARGEST_BYTES)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _host() -> str:
    """What compiled code depends on: the processor with its instruction sets, the system and the compiler."""
    try:
        flags = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags"))
    except (OSError, StopIteration):
        flags = platform.processor()
    return " ".join((platform.node(), platform.machine(), flags, version("jaxlib")))
