"""The architecture, found by measurement: rivals of the world model, each trained for the same time and measured alike.

How many steps a rival may take follows from the time that a step of each takes, measured in turn in one process, so
that a busy machine wrongs nobody. All have one seed and one learning rate, that of the world model. Of each the
checkpoint with the lowest held-out error is measured, on the same held-out split.
"""

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from rich.console import Console
from rich.table import Table

from experiments import forecast, runfolder
from experiments.cli import huge_pages, main
from wm import model, train
from wm.bundle import Bundle
from wm.config import ModelConfig, TrainConfig, to_json
from wm.data.activity import followed
from wm.data.footage import Footage
from wm.data.loader import windows
from wm.errors import InputError
from wm.nets import ImageDecoder, dense, from_patches, symlog, to_patches

TURNS = 10


@dataclass(frozen=True)
class ConvolutionConfig(ModelConfig):
    """A model between convolutions as DreamerV3's, of `depth` channels at the finest of its four scales, or of as many
    as lead from pixels to cells. With a patch as large as the picture its latent is global, as DreamerV3's is.
    """

    depth: int = 8

    @property
    def channels(self) -> list[int]:
        """Of every scale, the finest first."""
        return [self.depth * 2**scale for scale in range(min(4, self.patch.bit_length() - 1))]

    @property
    def side(self) -> int:
        """Of a cell at the coarsest scale."""
        return self.patch // 2 ** len(self.channels)


class ConvolutionEncoder(nn.Module):
    """Convolutions of stride 2 to one embedding a cell: `[..., H, W, C]` and `[..., S]` to `[..., N, embed]`."""

    config: ConvolutionConfig

    @nn.compact
    def __call__(self, image: jax.Array, sensors: jax.Array) -> jax.Array:
        c = self.config
        x = image - 0.5
        for channels in c.channels:
            x = nn.silu(nn.Conv(channels, (4, 4), (2, 2))(x))
        picture = dense(c.embed)(to_patches(x, c.side))
        if not c.sensors:
            return picture
        return picture + dense(c.embed)(nn.silu(dense(c.hidden)(symlog(sensors))))[..., None, :]


class ConvolutionDecoder(nn.Module):
    """The way back: `[..., N, F]` to a picture `[..., H, W, C]`, as the change against a learnt background, and the log
    variance `[..., H, W]` of each pixel.
    """

    config: ConvolutionConfig

    @nn.compact
    def __call__(self, features: jax.Array) -> tuple[jax.Array, jax.Array]:
        c = self.config
        assert c.image
        rows, columns = c.grid
        coarsest = (rows * c.side, columns * c.side, c.channels[-1])
        x = from_patches(nn.silu(dense(c.side**2 * c.channels[-1])(features)), coarsest, c.side)
        for channels in reversed(c.channels[:-1]):
            x = nn.silu(nn.ConvTranspose(channels, (4, 4), (2, 2))(x))
        change = nn.ConvTranspose(c.image[2], (4, 4), (2, 2), kernel_init=nn.initializers.normal(0.01))(x)
        spread = nn.ConvTranspose(1, (4, 4), (2, 2))(jax.lax.stop_gradient(x))[..., 0]
        return self.param("background", nn.initializers.constant(0.5), c.image) + change, spread - 4.0


class ConvolutionNetworks(model.Networks):
    """The same dynamics and losses, between convolutions."""

    encoder_type = ConvolutionEncoder
    image_decoder_type = ConvolutionDecoder


@model.networks.register
def _(config: ConvolutionConfig) -> model.Networks:
    return ConvolutionNetworks(config)


@dataclass(frozen=True)
class PaintingConfig(ModelConfig):
    """A model that paints the whole picture and not the change against a background."""


class PaintingDecoder(ImageDecoder):
    """Starts from grey."""

    def backdrop(self) -> jax.Array:
        return jnp.full(self.config.image or (), 0.5)


class PaintingNetworks(model.Networks):
    """The same world model but for its decoder of pictures."""

    image_decoder_type = PaintingDecoder


@model.networks.register
def _(config: PaintingConfig) -> model.Networks:
    return PaintingNetworks(config)


@dataclass(frozen=True)
class Flags:
    """Flags of experiments.architectures."""

    footage: Path
    """Footage with a camera and a held-out split."""
    out: Path
    """Folder of the run."""
    minutes: float = 15.0
    """Training time of each."""
    windows: int = 256
    """Held-out windows to measure on."""
    seed: int = 0
    """Seed of everything."""
    report: Path | None = None
    """Folder for architectures.json, beside other reports."""


def rivals(footage: Footage) -> dict[str, ModelConfig]:
    """The world model as it is, and what else it could be.

    Raises:
      InputError: the picture is not square, or its side no multiple of 16 pixels.
    """
    plain = ModelConfig.of(footage.spec, "small")
    assert plain.image
    if plain.image[0] != plain.image[1] or plain.image[0] % 16:
        raise InputError(
            f"the rivals need square pictures with a side of 16 pixels or a multiple, {footage.path} has "
            f"{plain.image[0]}x{plain.image[1]}; ingest it at 64 64."
        )
    coarse = replace(plain, patch=16)
    shared = {name: getattr(plain, name) for name in ("image", "sensors", "actions")}
    whole = dict(patch=max(plain.image[:2]), embed=96, deter=160, hidden=96, groups=16, classes=8, depth=5)
    return {
        "cells, followed patches": replace(plain, followed=followed(footage, plain.patch)),
        "cells, all patches": plain,
        "cells, all patches, no background": PaintingConfig(**shared),
        "cells, followed patches of 16": replace(coarse, followed=followed(footage, coarse.patch)),
        "cells, all patches, convolutions": ConvolutionConfig(**shared, depth=16),
        "one latent, convolutions": ConvolutionConfig(**shared, **whole),
    }


def run(flags: Flags) -> None:
    """Trains every rival for the same time; writes metrics.json with the error of each at 1, 2 and 3 s."""
    if flags.minutes <= 0 or flags.windows < 1:
        raise InputError("--minutes must be above 0 and --windows at least 1.")
    footage = Footage.open(flags.footage)
    if footage.spec.image is None:
        raise InputError(f"the footage at {flags.footage} has no camera, so there are no pictures to forecast.")
    train.check(footage, TrainConfig())
    held_out = forecast.cut(footage, "holdout", flags.windows)
    configs = rivals(footage)
    resolved = {"rivals": {name: to_json(config) for name, config in configs.items()}}
    folder = runfolder.start(flags.out, flags, fingerprint=footage.fingerprint, **resolved)
    console = Console(stderr=True)
    measured = folder / "seconds.json"
    if not measured.exists():
        runfolder.write_json(measured, step_seconds(footage, list(configs.values()), flags.seed))
    seconds = json.loads(measured.read_bytes())
    frames = [round(second * footage.spec.rate_hz) - 1 for second in forecast.SECONDS]
    rows: dict[str, Any] = {}
    for (name, config), second in zip(configs.items(), seconds, strict=True):
        steps = max(1, round(60 * flags.minutes / second))

        def report(progress: train.Progress, name: str = name) -> None:
            console.print(f"{name}: step {progress.step} of {progress.steps}, held-out {progress.held_out}")

        place = folder / name.replace(", ", "-").replace(" ", "_")
        variables = train.fit(footage, config, TrainConfig(steps=steps, patience=steps), place, flags.seed, report)
        foretold = forecast.foretell(Bundle(footage.spec, config, variables), held_out, lambda count: None)
        found = forecast.errors(held_out, foretold.pictures)
        rows[name] = {
            "parameters": sum(x.size for x in jax.tree.leaves(variables["params"])),
            "step_ms": 1e3 * second,
            "steps": steps,
            "error_all": found[0, frames].tolist(),
            "error_moving": found[1, frames].tolist(),
        }
    metrics = {"rivals": rows, "provenance": runfolder.provenance(flags)}
    runfolder.finish(folder, metrics, flags.report and flags.report / "architectures.json")
    console.print(_table(rows))


def step_seconds(footage: Footage, configs: list[ModelConfig], seed: int) -> list[float]:
    """Median time of a training step of each, measured in turn."""
    settings = TrainConfig()
    normaliser, key = train.normaliser_of(footage), jax.random.key(seed)
    batch = next(iter(windows(footage, "train", length=settings.length, batch=settings.batch, seed=seed)))
    batch = jax.tree.map(jnp.asarray, batch)
    states = [train.create(config, settings, normaliser, seed) for config in configs]
    times: list[list[float]] = [[] for _ in configs]
    for _ in range(TURNS + 1):
        for config, state, taken in zip(configs, states, times, strict=True):
            began = time.perf_counter()
            jax.block_until_ready(train.train_step(config, settings, state, normaliser, batch, key))
            taken.append(time.perf_counter() - began)
    return [float(np.median(taken[1:])) for taken in times]


def _table(rows: dict[str, Any]) -> Table:
    table = Table(title="held-out squared error x 1000, moving pixels (all pixels)")
    for column in ("rival", "parameters", "ms a step", "steps", *(f"{second} s" for second in forecast.SECONDS)):
        table.add_column(column)
    for name, row in rows.items():
        errors = zip(row["error_moving"], row["error_all"], strict=True)
        told = (f"{1e3 * moving:.2f} ({1e3 * whole:.2f})" for moving, whole in errors)
        table.add_row(name, f"{row['parameters']:,}", f"{row['step_ms']:.0f}", str(row["steps"]), *told)
    return table


if __name__ == "__main__":
    huge_pages()
    main(run)
