"""The plots that runs leave behind."""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from numpy.typing import NDArray

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

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


def scores(values: NDArray[np.float32], labels: NDArray[np.bool_] | None, rate_hz: float, path: Path) -> None:
    """The score against time, the threshold, and where the truth says that something was wrong."""
    drawn, (axis,) = figure()
    minutes = np.arange(len(values)) / rate_hz / 60
    axis.plot(minutes, values, color=BLUE, linewidth=0.6)
    axis.axhline(1.0, color=RED, linewidth=0.8)
    if labels is not None:
        axis.fill_between(minutes, 0, 1, where=labels, transform=axis.get_xaxis_transform(), color=ORANGE, alpha=0.2)
    axis.set(xlabel="minutes", ylabel="score", yscale="symlog", ylim=(0, None))
    write(drawn, path)
