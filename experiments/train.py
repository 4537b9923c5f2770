"""Fits a world model on footage and ends with a bundle."""

import re
from dataclasses import dataclass, fields, replace
from pathlib import Path

import jax
from rich.console import Console
from tensorboardX import SummaryWriter

from experiments import plots, runfolder
from experiments.cli import huge_pages, main
from wm import bundle, calibrate, train
from wm.bundle import Bundle
from wm.config import ModelConfig, TrainConfig, from_json, to_json
from wm.data.activity import followed
from wm.data.footage import Footage
from wm.errors import InputError
from wm.files import checksums

ADAPTED = ("steps", "batch", "learning_rate", "patience")  # the other settings stay those of a given bundle


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
    """Windows in a step, shared by all devices."""
    context: int = TrainConfig.context
    """Frames of a window that are filtered before the open loop starts."""
    open_loop: int = TrainConfig.open_loop
    """Frames of a window that are foretold from there; fewer make a step cheaper and teach a shorter horizon."""
    beta_dynamics: float = TrainConfig.beta_dynamics
    """What a nat of the prior costs against the squared error of a picture; lower it where what moves is faint."""
    beta_representation: float = TrainConfig.beta_representation
    """What a nat of the posterior costs, by custom a tenth of that."""
    learning_rate: float = TrainConfig.learning_rate
    """Peak of the learning rate."""
    patience: int = TrainConfig.patience
    """Steps without a lower held-out error after which training stops."""
    gain: float = TrainConfig.gain
    """Every window is made brighter or darker by up to this share."""
    tint: float = TrainConfig.tint
    """Each colour of a window likewise, on its own."""
    shift: int = TrainConfig.shift
    """Every window is moved by up to so many pixels; every patch is followed then, which makes a step slower."""
    seed: int = 0
    """Seed of everything."""
    coordinator: str | None = None
    """HOST:PORT of the first of several processes that train together, on folders that all of them see; all get the
    same flags but --process."""
    processes: int = 1
    """How many there are."""
    process: int = 0
    """Which of them this one is, from 0."""


def run(flags: Flags) -> None:
    """Fits a world model on footage; writes runs/NAME/bundle."""
    learn(flags)


def learn(flags: Flags, given: Path | None = None) -> None:
    """Fits a fresh world model, or goes on from that of a given bundle, whose size it keeps and of whose settings it
    changes those in `ADAPTED` alone.
    """
    settings = _settings(flags)
    footage = Footage.open(flags.footage)
    known = None if given is None else bundle.load(given)
    if known:
        calibrate.check(known, footage)
        _check_cells(known, footage)
        as_before = from_json(TrainConfig, known.recipe["settings"])
        settings = replace(as_before, **{name: getattr(settings, name) for name in ADAPTED})
    train.check(footage, settings)
    config = known.config if known else _model(flags, footage)
    if flags.process:
        _join(flags)
        variables = known.variables if known else None
        train.fit(
            footage, config, settings, flags.out / "checkpoints", flags.seed, lambda progress: None, given=variables
        )
        return
    resolved = {
        "model": to_json(config),
        "settings": to_json(settings),
        "fingerprint": footage.fingerprint,
        "given": None if given is None else checksums(given),
    }
    anywhere = replace(flags, coordinator=None, processes=1)
    folder = runfolder.start(flags.out, anywhere, **resolved)
    _join(flags)
    history = runfolder.History(folder / "progress.jsonl")
    console = Console(stderr=True)

    with SummaryWriter(str(folder / "tensorboard")) as board:

        def report(progress: train.Progress) -> None:
            history.append(progress)
            _log(board, progress)
            console.print(_line(progress), highlight=False, soft_wrap=True)

        variables = train.fit(
            footage,
            config,
            settings,
            folder / "checkpoints",
            flags.seed,
            report,
            given=known.variables if known else None,
        )
    rows = history.rows()
    best = next(row for row in rows if row["step"] == rows[-1]["best"])
    metrics = {**best, "steps_run": rows[-1]["step"], "minutes": sum(row["seconds"] for row in rows) / 60}
    recipe = {
        "train": {**runfolder.provenance(flags), "device": jax.devices()[0].device_kind},
        "footage": {"fingerprint": footage.fingerprint, "hours": footage.hours("train"), "metadata": footage.metadata},
        "settings": to_json(settings),
        "metrics": metrics,
        **({"pretrained": known.recipe} if known else {}),
    }
    if not (folder / "bundle").exists():
        bundle.save(bundle.Bundle(footage.spec, config, variables, recipe=recipe), folder / "bundle")
    plots.training(rows, folder / "training.png")
    runfolder.finish(folder, metrics)
    if rows[-1]["step"] < flags.steps:
        console.print(f"stopped early: no lower held-out error for {flags.patience} steps", highlight=False)
    console.print(f"wrote {folder / 'bundle'}, of step {best['step']}", highlight=False)


def _join(flags: Flags) -> None:
    if flags.coordinator:
        jax.distributed.initialize(flags.coordinator, flags.processes, flags.process)


def _model(flags: Flags, footage: Footage) -> ModelConfig:
    """Follows the patches in which something moves: all of them where the camera does."""
    config = ModelConfig.of(footage.spec, flags.size)
    return config if flags.shift else replace(config, followed=followed(footage, config.patch))


def _check_cells(known: Bundle, footage: Footage) -> None:
    """Raises InputError where something moves in the footage at which the bundle does not look."""
    config = known.config
    if config.followed is not None and set(followed(footage, config.patch)) - set(config.followed):
        raise InputError(
            f"in {footage.path} something moves where the bundle follows nothing; give one that follows every patch, "
            "trained with --shift, or train a fresh one."
        )


def _settings(flags: Flags) -> TrainConfig:
    """Raises InputError for a value that cannot be meant."""
    if min(flags.steps, flags.batch, flags.patience) < 1:
        raise InputError("--steps, --batch and --patience must be at least 1.")
    if min(flags.learning_rate, flags.beta_dynamics, flags.beta_representation) <= 0:
        raise InputError("--learning-rate, --beta-dynamics and --beta-representation must be above 0.")
    fewest = TrainConfig.decoded
    if flags.context < 1 or flags.open_loop < fewest:
        raise InputError(f"--context must be at least 1 and --open-loop {fewest}, as so many frames are decoded.")
    if not (0 <= flags.gain < 1 and 0 <= flags.tint < 1 and flags.shift >= 0):
        raise InputError("--gain and --tint are shares from 0 up to below 1, --shift is a number of pixels from 0.")
    alone = flags.processes == 1 and flags.coordinator is None
    together = flags.processes > 1 and re.fullmatch(r".+:\d+", flags.coordinator or "")
    if not (alone or together) or not 0 <= flags.process < flags.processes:
        raise InputError("several processes need --coordinator HOST:PORT, --processes N and --process from 0 to N - 1.")
    if flags.batch % flags.processes:
        raise InputError(f"--batch {flags.batch} cannot be divided among {flags.processes} processes.")
    names = {field.name for field in fields(TrainConfig)}
    return TrainConfig(**{name: value for name, value in vars(flags).items() if name in names})


def _log(board: SummaryWriter, progress: train.Progress) -> None:
    for name, value in progress.terms.items():
        board.add_scalar(f"train/{name}", value, progress.step)
    board.add_scalar("train/steps_a_second", progress.rate, progress.step)
    if progress.held_out is not None:
        board.add_scalar("held_out/open_loop_error", progress.held_out, progress.step)
    board.flush()


def _line(progress: train.Progress) -> str:
    held_out = "" if progress.held_out is None else f"  held-out open-loop error {progress.held_out:.5f}"
    return (
        f"step {progress.step:>6} of {progress.steps}  {progress.rate:5.2f} steps/s  "
        f"{progress.seconds_left / 60:5.1f} min left  loss {progress.terms['loss']:8.2f}{held_out}"
    )


if __name__ == "__main__":
    huge_pages()
    main(run)
