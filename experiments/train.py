"""Fits a world model on footage and ends with a bundle."""

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from experiments import plots, runfolder
from experiments.cli import main
from wm import bundle, train
from wm.config import ModelConfig, TrainConfig, to_json
from wm.data.footage import Footage
from wm.errors import InputError


@dataclass(frozen=True)
class Flags:
    """Flags of experiments.train."""

    footage: Path
    """Folder of footage; its split "train" is learnt from, its split "holdout" only measured."""
    out: Path
    """Folder of the run. Start again with the same flags and it goes on where it stopped."""
    size: str = "small"
    """Preset of the model: debug, small, base or large."""
    steps: int = TrainConfig.steps
    """Gradient steps."""
    batch: int = TrainConfig.batch
    """Windows in a step."""
    seed: int = 0
    """Seed of everything."""


def run(flags: Flags) -> None:
    """Fits a world model on footage; writes runs/NAME/bundle."""
    if flags.steps < 1 or flags.batch < 1:
        raise InputError("--steps and --batch must be at least 1.")
    footage = Footage.open(flags.footage)
    config = ModelConfig.of(footage.spec, flags.size)
    settings = TrainConfig(steps=flags.steps, batch=flags.batch)
    train.check(footage, settings)
    resolved = {"model": to_json(config), "settings": to_json(settings), "fingerprint": footage.fingerprint}
    folder = runfolder.start(flags.out, flags, **resolved)
    history = runfolder.History(folder / "progress.jsonl")
    console = Console(stderr=True)

    def report(progress: train.Progress) -> None:
        history.append(progress)
        console.print(
            f"step {progress.step:>6} of {progress.steps}  {progress.rate:5.2f} steps/s  "
            f"{progress.seconds_left / 60:5.1f} min left  loss {progress.terms['loss']:8.2f}  "
            + ("" if progress.held_out is None else f"held-out open-loop error {progress.held_out:.5f}"),
            highlight=False,
            soft_wrap=True,
        )

    variables = train.fit(footage, config, settings, folder / "checkpoints", flags.seed, report)
    rows = history.rows()
    recipe = {
        "train": runfolder.provenance(flags),
        "footage": {"fingerprint": footage.fingerprint, "hours": footage.hours("train"), "metadata": footage.metadata},
        "settings": to_json(settings),
        "metrics": rows[-1],
    }
    if not (folder / "bundle").exists():
        bundle.save(bundle.Bundle(footage.spec, config, variables, recipe=recipe), folder / "bundle")
    plots.training(rows, folder / "training.png")
    runfolder.finish(folder, rows[-1])
    console.print(f"wrote {folder / 'bundle'}", highlight=False)


if __name__ == "__main__":
    main(run)
