"""The README keeps its word."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import imageio.v3 as imageio
import jax
import pytest

from wm import bundle, model
from wm.config import PRESETS, ModelConfig

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_ten_lines_run_as_printed_and_predict_three_seconds(tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len([line for line in code.splitlines() if line and not line.startswith(("import", "from"))]) <= 10
    for folder in ("docs", "runtime", "wm"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=300)
    assert imageio.imread(tmp_path / "future.mp4", plugin="pyav").shape == (30, 64, 64, 3)


def test_every_path_that_the_readme_links_to_is_there():
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / link).exists(), link


def test_every_experiment_in_the_readme_takes_the_flags_that_it_shows():
    for command in re.findall(r"python -m (experiments\.\w+(?:\\\n|[^\n])*)", README):
        module, *words = command.replace("\\\n", " ").split()
        told = subprocess.run(
            [sys.executable, "-m", module, "--help"], cwd=ROOT, check=True, capture_output=True, text=True
        ).stdout
        for flag in (word for word in words if word.startswith("--")):
            assert flag in told, f"{module} {flag}"


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_has_the_parameters_that_the_table_of_sizes_says(preset):
    line = bundle.load(ROOT / "runtime" / "line" / "bundle")
    config = replace(ModelConfig.of(line.spec, preset), followed=line.config.followed)
    made = jax.eval_shape(lambda: model.init(config, line.variables["normaliser"], jax.random.key(0)))
    count = sum(leaf.size for leaf in jax.tree.leaves(made["params"]))
    assert re.search(rf"^\| {preset}\b.*? \| {count:,} \|", (ROOT / "docs" / "model.md").read_text(), re.MULTILINE)
