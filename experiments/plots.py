"""The plots that runs leave behind."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import imageio.v3 as imageio
import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wm.surprise import Told

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

Errors = NDArray[np.float32]
ZOOM = 4
INK, BLUE, ORANGE, RED = "#2b2f36", "#3567a8", "#d9822b", "#b3261e"


def figure(rows: int = 1, width: float = 9.0, height: float = 2.6) -> tuple[Figure, list[Axes]]:
    """A calm figure of `rows` plots, one above the other."""
    plt.rcParams.update({"font.size": 9, "axes.edgecolor": INK, "axes.spines.top": False, "axes.spines.right": False})
    drawn, axes = plt.subplots(rows, 1, figsize=(width, height * rows), squeeze=False, layout="constrained")
    return drawn, list(axes[:, 0])


def write(drawn: Figure, path: Path) -> None:
    """Writes the picture and frees it."""
    drawn.savefig(path, dpi=130)
    plt.close(drawn)


def training(rows: list[dict[str, Any]], path: Path) -> None:
    """Loss and held-out open-loop error against steps."""
    drawn, (above, below) = figure(2)
    steps = [row["step"] for row in rows]
    above.plot(steps, [row["terms"]["loss"] for row in rows], color=BLUE)
    above.set(yscale="log", ylabel="loss")
    measured = [row for row in rows if row["held_out"] is not None]
    below.plot([row["step"] for row in measured], [row["held_out"] for row in measured], color=ORANGE)
    below.set(yscale="log", ylabel="held-out open-loop error", xlabel="step")
    write(drawn, path)


def scores(
    values: dict[str, NDArray[np.float32]], labels: NDArray[np.bool_] | None, rate_hz: float, path: Path
) -> None:
    """Each signal against time, its threshold, and where the truth says that something was wrong."""
    drawn, axes = figure(len(values))
    for axis, (name, signal) in zip(axes, values.items(), strict=True):
        minutes = np.arange(len(signal)) / rate_hz / 60
        axis.plot(minutes, signal, color=BLUE, linewidth=0.6)
        axis.axhline(1.0, color=RED, linewidth=0.8)
        if labels is not None:
            axis.fill_between(
                minutes, 0, 1, where=labels, transform=axis.get_xaxis_transform(), color=ORANGE, alpha=0.2
            )
        axis.set(ylabel=name, yscale="symlog", ylim=(0, None))
    axes[-1].set(xlabel="minutes")
    write(drawn, path)


def horizon(told: dict[str, Errors], spread: Errors, rate_hz: float, path: Path) -> None:
    """Error `[2, K]` of every predictor against seconds ahead, and the spread of the models `[n, 2, K]`."""
    drawn, axes = figure(2)
    colours = dict(zip(told, ("#9aa3ad", "#6b7480", ORANGE, BLUE), strict=True))
    for index, (axis, kind) in enumerate(zip(axes, ("all pixels", "moving pixels"), strict=True)):
        for name, error in told.items():
            seconds = np.arange(1, error.shape[1] + 1) / rate_hz
            axis.plot(seconds, error[index], color=colours[name], label=name)
        axis.fill_between(seconds, spread[:, index].min(axis=0), spread[:, index].max(axis=0), color=BLUE, alpha=0.2)
        axis.set(ylabel=f"mean square error,\n{kind}", yscale="log")
    axes[0].legend(frameon=False, ncols=4, loc="upper left", bbox_to_anchor=(0, 1.25))
    axes[1].set(xlabel="seconds ahead")
    write(drawn, path)


def reliability(bins: dict[str, Errors], path: Path) -> None:
    """Found against expected squared error."""
    drawn, (axis,) = figure(1, width=4.0, height=4.0)
    axis.plot(bins["expected"], bins["found"], color=BLUE, marker="o", markersize=3)
    ends = [min(map(np.min, bins.values())), max(map(np.max, bins.values()))]
    axis.plot(ends, ends, color=INK, linewidth=0.6)
    axis.set(xscale="log", yscale="log", xlabel="squared error that the model expects", ylabel="found")
    write(drawn, path)


def strip(truth: Errors, forecast: Errors, frames: list[int], path: Path) -> None:
    """Truth above forecast, `[K, H, W, C]` each, at some frames."""
    chosen = [0, frames[0] // 2, *frames]
    rows = (np.concatenate(list(pictures[chosen]), axis=1) for pictures in (truth, forecast))
    picture = Image.fromarray(_colours(np.concatenate(list(rows))))
    picture.resize((picture.width * ZOOM, picture.height * ZOOM), Image.Resampling.NEAREST).save(path)


def film(pictures: Iterable[Errors], rate_hz: float, path: Path) -> None:
    """A video of pictures `[H, W, C]` in 0..1."""
    with imageio.imopen(path, "w", plugin="pyav") as video:
        video.init_video_stream("h264", fps=rate_hz)
        for picture in pictures:
            video.write_frame(np.repeat(np.repeat(_colours(picture), ZOOM, axis=0), ZOOM, axis=1))


def moving(pictures: list[Errors], rate_hz: float, path: Path) -> None:
    """Pictures `[H, W, C]` in 0..1 as a moving WebP, which a page shows by itself."""
    frames = [np.repeat(np.repeat(_colours(picture), 2, axis=0), 2, axis=1) for picture in pictures]
    imageio.imwrite(path, frames, plugin="pillow", duration=1000 / rate_hz, loop=0, quality=70)


def _colours(picture: Errors) -> NDArray[np.uint8]:
    """A picture `[H, W, C]` in 0..1 as bytes of three colours."""
    return np.broadcast_to((255 * picture).round().astype(np.uint8), (*picture.shape[:2], 3))


def promises(rows: list[dict[str, Any]], path: Path) -> None:
    """False alarms a shift that were observed, of every trial, against those that were promised."""
    drawn, (axis,) = figure()
    for row in rows:
        asked = np.array([float(rate) for rate in row["alarms"]])
        seen = np.array(list(row["alarms"].values())) / row["hours"] * 8.0
        axis.plot(asked, seen, "o", color=BLUE, markersize=3, alpha=0.5)
    most = max(map(float, rows[0]["alarms"]))
    axis.plot([0, most], [0, most], color=RED, linewidth=0.8, label="promised: at most")
    axis.legend(frameon=False)
    axis.set(xlabel="false alarms a shift, promised", ylabel="observed", ylim=(0, None))
    write(drawn, path)


def drift(told: dict[str, Told], rate_hz: float, path: Path) -> None:
    """The score of every line, once a minute its highest, above its drift, and the threshold of both."""
    drawn, axes = figure(2)
    colours = dict(zip(told, (BLUE, ORANGE), strict=True))
    minute = round(60 * rate_hz)
    for name, line in told.items():
        for axis, signal in zip(axes, (line.score, line.drift), strict=True):
            highest = signal[: len(signal) // minute * minute].reshape(-1, minute).max(axis=1)
            axis.plot(np.arange(len(highest)), highest, color=colours[name], label=name)
    for axis, name in zip(axes, ("score", "drift"), strict=True):
        axis.axhline(1.0, color=RED, linewidth=0.8)
        axis.set(ylabel=f"{name}, highest\nof a minute", yscale="symlog", ylim=(0, None))
    axes[0].legend(frameon=False, ncols=2)
    axes[1].set(xlabel="minutes")
    write(drawn, path)


def adaptation(rows: list[dict[str, Any]], path: Path) -> None:
    """Jams seen a second before and error two seconds ahead against minutes of footage, from scratch and adapted."""
    drawn, axes = figure(2, height=2.4)
    for axis, name, label in zip(
        axes,
        ("alarmed_1s_share", "moving_ratio_2s"),
        ("jams seen 1 s before", "error 2 s ahead, relative"),
        strict=True,
    ):
        for kind, colour in (("scratch", ORANGE), ("tuned", BLUE)):
            found = [(float(row["model"].split()[1]), row[name]) for row in rows if row["model"].startswith(kind)]
            axis.plot(
                *zip(*found, strict=True),
                color=colour,
                marker="o",
                label={"scratch": "from scratch"}.get(kind, "adapted"),
            )
        axis.set(xscale="log", ylabel=label)
    axes[0].set(ylim=(0, 1.05))
    axes[0].legend()
    axes[-1].set(xlabel="minutes of footage")
    write(drawn, path)


def dreams(found: dict[str, dict[str, Any]], path: Path) -> None:
    """What is measured of every second of a dream, for each way to dream, over the band of what is seen awake."""
    band = found["awake"]["band"]
    drawn, axes = figure(len(band), height=1.8)
    colours = dict(zip((way for way in found if way != "awake"), (BLUE, ORANGE, "#9aa3ad"), strict=True))
    for axis, (name, (low, high)) in zip(axes, band.items(), strict=True):
        axis.axhspan(low, high, color=INK, alpha=0.1, linewidth=0)
        for way, colour in colours.items():
            curve = found[way][name]
            axis.plot(np.arange(1, len(curve) + 1), curve, color=colour, label=way)
        axis.set(ylabel=name, ylim=(0, None))
    axes[0].legend(frameon=False, ncols=3, loc="upper left", bbox_to_anchor=(0, 1.3))
    axes[-1].set(xlabel="seconds dreamt")
    write(drawn, path)


def candidates(rows: list[dict[str, Any]], rate_hz: float, path: Path) -> None:
    """Of every candidate its action, the tags that are expected under it, and what it is worth beside the first."""
    names = list(rows[0]["tags"])
    drawn, axes = figure(2 + len(names), height=1.4)
    for number, row in enumerate(rows):
        planned = row["candidate"] == "planned"
        ahead = np.cumsum(np.subtract(row["rewards"], rows[0]["rewards"]))
        curves = [row["actions"], *row["tags"].values(), ahead]
        colour = RED if planned else matplotlib.colormaps["viridis"](number / len(rows))
        for axis, curve in zip(axes, curves, strict=True):
            seconds = np.arange(1, len(curve) + 1) / rate_hz
            axis.plot(seconds, curve, color=colour, linewidth=1.8 if planned else 1.0, label=row["candidate"])
    for axis, name in zip(axes, ("action", *names, "reward so far,\nagainst the first"), strict=True):
        axis.set(ylabel=name.replace("_", " "))
    axes[0].legend(frameon=False, ncols=len(rows), loc="upper left", bbox_to_anchor=(0, 1.4))
    axes[-1].set(xlabel="seconds ahead")
    write(drawn, path)


def branches(pictures: dict[str, Errors], rate_hz: float, path: Path) -> None:
    """What is expected under every candidate, `[K, H, W, C]` each: a row a candidate, a column a second."""
    frames = np.arange(rate_hz, 1 + len(next(iter(pictures.values()))), rate_hz).round().astype(int)
    drawn, axes = plt.subplots(
        len(pictures),
        len(frames),
        figsize=(9.0, 9.0 * len(pictures) / len(frames)),
        squeeze=False,
        layout="constrained",
    )
    for row, (name, each) in zip(axes, pictures.items(), strict=True):
        for axis, frame in zip(row, frames, strict=True):
            axis.imshow(_colours(each[frame - 1]), interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        row[0].set_ylabel(name)
    for axis, frame in zip(axes[0], frames, strict=True):
        axis.set_title(f"{frame / rate_hz:.0f} s", fontsize=9)
    write(drawn, path)


def learning(means: list[dict[str, float]], steps: list[int], path: Path) -> None:
    """What dreams are worth, the entropy of the actor, and how far dreams leave what is known, against steps."""
    names = {"return": BLUE, "reward": BLUE, "entropy": ORANGE, "ignorance": RED}
    drawn, axes = figure(len(names), height=1.5)
    for axis, (name, colour) in zip(axes, names.items(), strict=True):
        axis.plot(steps, [row[name] for row in means], color=colour)
        axis.set(ylabel=name)
    axes[-1].set(xlabel="step")
    write(drawn, path)


def curves(found: list[list[dict[str, Any]]], published: tuple[float, float] | None, path: Path) -> None:
    """Score of every episode of each seed against steps of the environment, and the published scores."""
    drawn, (axis,) = figure(1)
    for curve in found:
        axis.plot([row["step"] for row in curve], [row["score"] for row in curve], color=BLUE, linewidth=0.7)
    if published is not None:
        for name, score, color in zip(("DreamerV3", "D4PG"), published, (RED, ORANGE), strict=True):
            axis.axhline(score, color=color, linewidth=0.8, label=f"{name} after 500,000 steps")
        axis.legend(frameon=False, loc="lower right")
    axis.set(xlabel="steps of the environment", ylabel="score of an episode")
    write(drawn, path)
