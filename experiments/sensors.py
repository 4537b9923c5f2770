"""Machines without a camera: what `skab`, `hrss` and `tep` share.

How far ahead to compare, how long to average and which of the two signals to trust is chosen on faults that are planted
into held-out normal rows. Labels are read afterwards, once, for the figures that are told.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from experiments import evaluate, train
from wm import bundle, calibrate
from wm.bundle import Bundle
from wm.config import MonitorConfig
from wm.data.footage import Footage, FootageWriter
from wm.surprise import Told

Signal = Literal["score", "drift", "either"]
SIGNALS: tuple[Signal, ...] = get_args(Signal)
Rows = NDArray[np.float32]
BATCH = 16


@dataclass(frozen=True)
class Choice:
    """A monitor, its promise, the signal that is an alarm, and how good all signals are on planted faults."""

    monitor: MonitorConfig
    false_alarms_per_hour: float
    signal: Signal
    planted: dict[Signal, float]


def trained(footage: Path, out: Path, *, steps: int, seed: int, size: str = "small") -> Bundle:
    """The world model of a seed, trained now or by an earlier start."""
    train.run(train.Flags(footage, out, size=size, steps=steps, batch=BATCH, seed=seed))
    return bundle.load(out / "bundle")


def calibrated(model: Bundle, footage: Footage, monitor: MonitorConfig, false_alarms_per_hour: float) -> Bundle:
    """The model with this monitor, calibrated on the held-out split."""
    watching = replace(model, monitor=monitor)
    calibration, _ = calibrate.calibrate(watching, footage, "holdout", false_alarms_per_hour, 1.0, lambda frames: None)
    return replace(watching, calibration=calibration)


def pick(told: Told, signal: Signal) -> Rows:
    """The signal of T frames."""
    match signal:
        case "score":
            return np.asarray(told.score)
        case "drift":
            return np.asarray(told.drift)
        case "either":
            return np.maximum(told.score, told.drift)


def choose(
    model: Bundle,
    footage: Footage,
    planted: Footage,
    candidates: Iterable[tuple[MonitorConfig, float]],
    figure: Callable[[Rows, NDArray[np.bool_]], float],
) -> list[Choice]:
    """What each monitor, calibrated on the held-out split for so many false alarms an hour, makes of planted faults, by
    a figure of signals `[T]` and labels `[T]`, the best first.
    """
    labels = np.concatenate([np.array(rows, bool) for rows in planted.metadata["labels"]])
    choices = []
    for monitor, per_hour in candidates:
        told = evaluate.watch(calibrated(model, footage, monitor, per_hour), planted, "train")
        signals = {signal: np.concatenate([pick(each, signal) for each in told]) for signal in SIGNALS}
        found = {signal: figure(rows, labels) for signal, rows in signals.items()}
        choices.append(Choice(monitor, per_hour, max(SIGNALS, key=found.__getitem__), found))
        said = ", ".join(f"{signal} {value:.3f}" for signal, value in found.items())
        Console(stderr=True).print(
            f"planted faults, horizons {monitor.horizons_s} s, drift over {monitor.drift_s:g} s, {per_hour:g} false "
            f"alarms an hour: {said}",
            highlight=False,
        )
    return sorted(choices, key=lambda choice: -choice.planted[choice.signal])


def plant(footage: Footage, split: str, out: Path, *, copies: int, first: int, seed: int) -> Footage:
    """Footage of normal episodes with a fault in each, not before row `first`; one label a row in its metadata."""
    if out.exists():
        return Footage.open(out)
    generator = np.random.default_rng(seed)
    labels: list[list[int]] = []
    with FootageWriter(out, footage.spec, {}) as writer:
        for number, length in enumerate(footage.lengths(split)):
            whole = footage.read(split, number, 0, length)
            for copy in range(copies):
                sensors, label = fault(whole.sensors, generator, first)
                labels.append(label.tolist())
                with writer.episode("train", f"{whole.source}, fault {copy}") as episode:
                    for row, action, time in zip(sensors, whole.actions, whole.times, strict=True):
                        episode.append(None, row, action, float(time))
        writer.metadata["labels"] = labels
    return Footage.open(out)


def fault(sensors: Rows, generator: np.random.Generator, first: int) -> tuple[Rows, NDArray[np.int64]]:
    """Normal rows `[T, S]` with a fault that lasts a twentieth to a half of them, and its labels `[T]`: some tags step,
    creep, freeze or become noisy, or the whole machine is late. After every other fault a part of what it shifted
    stays, and is no fault.
    """
    length, count = sensors.shape
    lasts = max(2, int(length * generator.uniform(0.05, 0.5)))
    start = int(generator.integers(first, max(first + 1, length - lasts)))
    end = min(length, start + lasts)
    span = slice(start, end)
    tags = generator.choice(count, generator.integers(1, count // 2 + 2), replace=False)
    sizes = generator.uniform(1.0, 3.0, len(tags)) * generator.choice([-1.0, 1.0], len(tags))
    sizes *= sensors[:, tags].std(axis=0) + 1e-3
    faulty, kind = sensors.copy(), generator.choice(["step", "creep", "freeze", "noise", "late"])
    match kind:
        case "step":
            faulty[span, tags] += sizes
        case "creep":
            faulty[span, tags] += np.linspace(0, 1, end - start)[:, None] * sizes
        case "freeze":
            faulty[span, tags] = sensors[start, tags]
        case "noise":
            faulty[span, tags] += np.abs(sizes) * generator.normal(size=(end - start, len(tags)))
        case "late":
            late = int(generator.integers(2, max(3, lasts // 2)))
            faulty[span] = sensors[np.maximum(np.arange(start, end) - late, 0)]
    if kind in ("step", "creep") and generator.random() < 0.5:
        faulty[end:, tags] += generator.uniform(0.1, 0.3) * sizes
    label = np.zeros(length, np.int64)
    label[span] = 1
    return faulty, label


def told_of(choices: Sequence[Choice]) -> list[dict[str, Any]]:
    """The choices as plain JSON values."""
    return [
        {
            "horizons_s": choice.monitor.horizons_s,
            "settle_s": choice.monitor.settle_s,
            "drift_s": choice.monitor.drift_s,
            "false_alarms_per_hour": choice.false_alarms_per_hour,
            "signal": choice.signal,
            "planted": choice.planted,
        }
        for choice in choices
    ]
