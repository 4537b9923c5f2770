"""Compiled programs are kept from one process to the next."""

import os
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import jax
from wm import compilation
compilation.keep()
print(jax.config.jax_compilation_cache_dir)
jax.jit(lambda x: x * 2 + 1)(3.0).block_until_ready()
"""


def compile_in(**environment: str) -> Path:
    """Where a process of its own keeps what it compiles."""
    kept = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=kept | environment,
        cwd=Path(__file__).parents[1],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return Path(ran.stdout.strip())


def test_what_is_compiled_is_kept_in_a_private_folder_and_found_again(tmp_path: Path) -> None:
    folder = compile_in(XDG_CACHE_HOME=str(tmp_path))
    assert folder.is_relative_to(tmp_path) and folder.stat().st_mode & 0o777 == 0o700
    compiled = sorted(file.name for file in folder.rglob("*-cache"))
    assert compiled
    assert compile_in(XDG_CACHE_HOME=str(tmp_path)) == folder
    assert sorted(file.name for file in folder.rglob("*-cache")) == compiled


def test_a_folder_of_the_users_own_is_left_as_it_is(tmp_path: Path) -> None:
    own = tmp_path / "own"
    assert compile_in(JAX_COMPILATION_CACHE_DIR=str(own), XDG_CACHE_HOME=str(tmp_path / "other")) == own
    assert not (tmp_path / "other").exists()


def test_without_a_place_to_write_nothing_is_kept_and_all_goes_on(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert compile_in(XDG_CACHE_HOME=str(tmp_path / "file")) == Path("None")
