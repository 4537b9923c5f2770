"""Shared fixtures: small made-up footage, and where the real data lies."""

import os
import socket
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import av
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import settings
from numpy.typing import NDArray

from runtime.demo import BUNDLE
from runtime.line.line import REWARD, SPEC
from wm import actor, bundle, compilation, model, surprise
from wm.actor import Behavior
from wm.bundle import Bundle
from wm.config import ActionSpace, BehaviorConfig, FootageSpec, ModelConfig, MonitorConfig
from wm.data.footage import Footage, FootageWriter
from wm.types import Normaliser

settings.register_profile("flinch", deadline=None)
settings.load_profile("flinch")
compilation.keep()

BOX_SPEC = FootageSpec(rate_hz=10.0, image=(16, 16, 3), tags=("eye", "speed"), actions=("setpoint",))


def box_frame(t: int, episode: int = 0) -> NDArray[np.uint8]:
    """A bright box that moves one pixel a frame; the red of two corner pixels tells the frame and the episode."""
    frame = np.full((16, 16, 3), 40, np.uint8)
    frame[6:10, (t + np.arange(4)) % 16] = 220
    frame[0, 0, 0], frame[0, 1, 0] = t % 256, episode
    return frame


def write_box_footage(path: Path, train: Sequence[int], holdout: Sequence[int] = ()) -> Footage:
    """Footage of the moving box with episodes of these lengths; sensors are (t, episode), the action is t / 1000."""
    with FootageWriter(path, BOX_SPEC, {"seed": 0}) as writer:
        for number, (split, length) in enumerate([*(("train", n) for n in train), *(("holdout", n) for n in holdout)]):
            with writer.episode(split, f"box {number}") as episode:
                for t in range(length):
                    episode.append(box_frame(t, number), (t, number), (t / 1000,), t / BOX_SPEC.rate_hz)
    return Footage.open(path)


@pytest.fixture(scope="session")
def box_footage(tmp_path_factory: pytest.TempPathFactory) -> Footage:
    """Three training episodes of 100, 33 and 12 frames, and one of 40 held out."""
    return write_box_footage(tmp_path_factory.mktemp("box") / "footage", train=(100, 33, 12), holdout=(40,))


@pytest.fixture
def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The real data sets, in FLINCH_DATA or ../shared/data; tests that need them are skipped where they are missing."""
    folder = Path(os.environ.get("FLINCH_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("no real data: set FLINCH_DATA to the folder that holds clips/ and ucsd_ped2/")
    return folder


def noise_bundle(config: ModelConfig, *, rate_hz: float, tags: tuple[str, ...], actions: tuple[str, ...]) -> Bundle:
    """A bundle with untrained weights and a calibration that divides by one."""
    shapes = (config.sensors, config.sensors, config.actions, config.actions)
    normaliser = Normaliser(*(jnp.full(n, float(value)) for n, value in zip(shapes, (0, 1, 0, 1), strict=True)))
    variables = jax.jit(model.init, static_argnums=0)(config, normaliser, jax.random.key(0))
    spec = FootageSpec(rate_hz, config.image, tags, actions)
    return Bundle(spec, config, variables, surprise.uncalibrated(config, MonitorConfig(), rate_hz))


def untrained(spec: FootageSpec, threshold: float) -> Bundle:
    """Every frame surprises it a little: with a tiny threshold always too much, with a large one never."""
    config, monitor = ModelConfig.of(spec, "debug"), MonitorConfig(horizons_s=(0.0, 0.5), shown_s=0.5)
    sizes = (len(spec.tags), len(spec.tags), len(spec.actions), len(spec.actions))
    normaliser = Normaliser(*(jnp.ones(size) for size in sizes))
    variables = jax.jit(model.init, static_argnums=0)(config, normaliser, jax.random.key(0))
    calibration = surprise.uncalibrated(config, monitor, spec.rate_hz).replace(
        threshold=jnp.asarray(threshold, jnp.float32)
    )
    return Bundle(spec, config, variables, calibration, monitor)


@pytest.fixture(scope="session")
def acting() -> Bundle:
    """The shipped bundle with an actor that has learnt nothing."""
    one = bundle.load(BUNDLE)
    config, space = BehaviorConfig(units=8), ActionSpace((0.2,), (0.8,))
    fresh = actor.fresh(one.config, config, space, jax.random.key(0))
    return replace(one, behavior=Behavior(config, space, REWARD, *fresh))


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a clip of three seconds and a bundle that always alarms."""
    folder = tmp_path_factory.mktemp("shop")
    with av.open(str(folder / "belt.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for number in range(30):
            pixels = np.roll(np.eye(32, dtype=np.uint8) * 255, number, axis=1)[..., None].repeat(3, axis=-1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    bundle.save(untrained(SPEC, 1e-6), folder / "anxious")
    return folder
