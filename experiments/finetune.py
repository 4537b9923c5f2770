"""Adapts a bundle that knows other lines to one line's little footage, and ends with a bundle."""

from dataclasses import dataclass
from pathlib import Path

from experiments import train
from experiments.cli import huge_pages, main
from wm.config import TrainConfig


@dataclass(frozen=True)
class Flags:
    """Flags of experiments.finetune."""

    bundle: Path
    """Bundle to start from, of the same kind of footage; it stays as it is."""
    footage: Path
    """Folder of footage; its split "train" is learnt from, its split "holdout" only measured."""
    out: Path
    """Folder of the run. Start again with the same flags and it goes on where it stopped."""
    steps: int = TrainConfig.steps
    """Gradient steps."""
    batch: int = TrainConfig.batch
    """Windows in a step."""
    learning_rate: float = 1e-3
    """Peak of the learning rate, lower than what a fresh model begins with."""
    patience: int = TrainConfig.patience
    """Steps without a lower held-out error after which training stops."""
    seed: int = 0
    """Seed of everything."""


def run(flags: Flags) -> None:
    """Adapts a bundle to footage; writes runs/NAME/bundle."""
    settings = {name: value for name, value in vars(flags).items() if name != "bundle"}
    train.learn(train.Flags(**settings), given=flags.bundle)


if __name__ == "__main__":
    huge_pages()
    main(run)
