"""The demo's story as pictures: both arms of a run side by side, what the model saw, foresaw and found surprising."""

from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from functools import cache
from itertools import pairwise
from math import log
from pathlib import Path
from typing import Final, NamedTuple

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from runtime.arms import Shot
from runtime.line.cartons import Tail
from runtime.line.line import TAGS
from runtime.line.plant import BLOCK_SECONDS, Plant

Picture = Image.Image
Colour = tuple[int, int, int]

RATE_HZ: Final = 10
SIZE: Final = (1600, 900)
BEFORE_S, AFTER_S = 2.0, 10.0  # of a run that are shown, around the carton's coming into view
TITLE_S: Final = 1.5
CLOSING_S: Final = 3.0

INK, MUTED = (230, 236, 242), (139, 151, 163)
GROUND, CARD, WELL = (13, 17, 22), (22, 28, 35), (14, 19, 25)
GREEN, AMBER, BLUE, RED = (76, 195, 138), (245, 184, 61), (96, 170, 250), (242, 92, 96)

MARGIN, GAP = 40, 16
CARD_TOPS, CARD_HEIGHT = (104, 502), 382
LARGE, SMALL, CURVE = 272, 192, (280, 272)
CORNER: Final = 10
HEAT_FROM, HEAT_FULL = 0.8, 4.0  # values of the surprise map: nothing to see, and all the colour
CURVE_FROM, CURVE_TO = 0.25, 8.0  # of the score's logarithmic axis

TROUBLE: Final[dict[Tail, tuple[str, str]]] = {
    "lid": ("A lid stands open", "One carton comes with its lid up. The hold-down lip may catch it."),
    "skew": ("A carton comes askew", "One carton comes turned. It may wedge where the rail steps in."),
    "double": ("Two cartons come too close", "One carton follows too closely. The gate may come down on it."),
    "slip": ("A belt slips", "The belt to the transfer loses its grip. Cartons run up on each other."),
}


class Take(NamedTuple):
    """One arm from its warm-up on, and when its jam began, if it jammed."""

    shots: Sequence[Shot]
    block_s: float | None


class Reel(NamedTuple):
    """Both arms of a run. `plant` has its seed and tails, for pictures of their snapshots."""

    seed: int
    kind: Tail
    onset_s: float
    without: Take
    acted: Take
    plant: Plant

    @property
    def window(self) -> slice:
        """The shots to be shown."""
        start = self.without.shots[0].frame.time
        first = max(0, round((self.onset_s - BEFORE_S - start) * RATE_HZ))
        return slice(first, first + round((BEFORE_S + AFTER_S) * RATE_HZ) + 1)


def draw(reels: Sequence[Reel], closing: str) -> Iterator[Picture]:
    """The frames of the story: a title and the two arms for each reel, then a card with `closing`."""
    for reel in reels:
        yield from [title(reel)] * round(TITLE_S * RATE_HZ)
        for index in range(len(reel.without.shots))[reel.window]:
            yield scene(reel, index)
    yield from [card("Flinch", closing, "No jam is scripted: one snapshot, run twice.")] * round(CLOSING_S * RATE_HZ)


def length(reels: Sequence[Reel]) -> int:
    """Frames that `draw` gives."""
    shown = sum(len(reel.without.shots[reel.window]) + round(TITLE_S * RATE_HZ) for reel in reels)
    return shown + round(CLOSING_S * RATE_HZ)


def encode(path: Path, pictures: Iterable[Picture]) -> None:
    """Writes H.264 video that every browser plays."""
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=Fraction(RATE_HZ), options={"crf": "21", "preset": "veryfast"})
        stream.width, stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_image(picture)))
        container.mux(stream.encode())


def still(reel: Reel) -> Picture:
    """The frame that tells most: shortly after the jam without Flinch, or while the tail carton passes."""
    at = reel.onset_s + 3.0 if reel.without.block_s is None else reel.without.block_s + 1.0
    shots = reel.without.shots
    return scene(reel, min(range(len(shots)), key=lambda index: abs(shots[index].frame.time - at)))


def title(reel: Reel) -> Picture:
    """The card before a run."""
    headline, detail = TROUBLE[reel.kind]
    return card(headline, detail, f"Seed {reel.seed}. One snapshot, run twice. Whether it jams is left to physics.")


def card(headline: str, detail: str, note: str) -> Picture:
    """A card of text; `detail` may have several lines."""
    picture = Image.new("RGB", SIZE, GROUND)
    pen, (width, height) = ImageDraw.Draw(picture), SIZE
    lines = [(headline, INK, 64, 100), *((line, INK, 30, 46) for line in detail.splitlines()), (note, MUTED, 22, 60)]
    y = (height - sum(step for *_, step in lines)) / 2
    for text, colour, size, step in lines:
        pen.text((width / 2, y + step / 2), text, colour, _font(size), anchor="mm")
        y += step
    return picture


def scene(reel: Reel, index: int) -> Picture:
    """Both arms at shot `index`, the one without Flinch above."""
    picture = _stage().copy()
    pen = ImageDraw.Draw(picture)
    time = reel.without.shots[index].frame.time - reel.onset_s
    pen.text((MARGIN + 118, 66), f"{TROUBLE[reel.kind][0]}  ·  seed {reel.seed}", MUTED, _font(24), anchor="ls")
    pen.text((SIZE[0] - MARGIN, 66), f"{time:+.1f} s", INK, _font(34), anchor="rs")
    for take, top in zip((reel.without, reel.acted), CARD_TOPS, strict=True):
        _arm(picture, reel, take, index, top)
    return picture


def _arm(picture: Picture, reel: Reel, take: Take, index: int, top: int) -> None:
    shot = take.shots[index]
    reel.plant.restore(shot.plant)
    sharp = reel.plant.picture(LARGE)
    large, small, curve = _columns()
    pill, y = _pill(*_state(take, index)), top + 90
    picture.paste(pill, (large[1] + LARGE - pill.width, top + 17))
    out = shot.plant.state.cartons_out - take.shots[reel.window.start].plant.state.cartons_out
    said = f"{out} carton{'' if out == 1 else 's'} out"
    ImageDraw.Draw(picture).text((curve + CURVE[0], top + 44), said, INK, _font(22), anchor="rs")
    images = sharp, heat(sharp, np.asarray(shot.surprise.map))
    seen = shot.frame.image, _bytes(shot.surprise.expected), _bytes(shot.forecast)
    for image, x, size in zip((*images, *seen), (*large, *small), 2 * [LARGE] + 3 * [SMALL], strict=True):
        scaled = Image.fromarray(image).resize((size, size), Image.Resampling.NEAREST)
        picture.paste(scaled, (x, y), _corners(size))
    picture.paste(_feeder(float(shot.frame.sensors[TAGS.index("feeder_speed")])), (small[0], y + SMALL + 24))
    picture.paste(_curve(reel, take, index), (curve, y))


def _columns() -> tuple[tuple[int, int], tuple[int, int, int], int]:
    """Left edges of the large pictures, the small ones, and the curve."""
    left = MARGIN + GAP + 4
    large = left, left + LARGE + GAP
    first = large[1] + LARGE + GAP
    small = first, first + SMALL + GAP, first + 2 * (SMALL + GAP)
    return large, small, small[2] + SMALL + GAP


@cache
def _stage() -> Picture:
    """What stays the same in every scene."""
    picture = Image.new("RGB", SIZE, GROUND)
    pen = ImageDraw.Draw(picture)
    pen.text((MARGIN, 66), "Flinch", INK, _font(34), anchor="ls")
    large, small, curve = _columns()
    captions = ("the line", "surprise", "what the model sees", "as forecast 2 s ago", "forecast 2 s ahead", "score")
    note = "since the carton came into view"
    pen.text((SIZE[0] - MARGIN - 130, 66), note, MUTED, _font(20), anchor="rs")
    names = ("Without Flinch", "mode shadow"), ("With Flinch", "mode act")
    for (name, mode), top in zip(names, CARD_TOPS, strict=True):
        ground = _rounded((SIZE[0] - 2 * MARGIN, CARD_HEIGHT), 18, CARD, GROUND)
        picture.paste(ground, (MARGIN, top))
        pen.text((large[0], top + 44), name, INK, _font(28), anchor="ls")
        pen.text((large[0] + _font(28).getlength(name) + 14, top + 44), mode, MUTED, _font(17), anchor="ls")
        for x, caption in zip((*large, *small, curve), captions, strict=True):
            pen.text((x, top + 80), caption, MUTED, _font(17), anchor="ls")
    return picture


def _state(take: Take, index: int) -> tuple[str, Colour]:
    shot = take.shots[index]
    known = take.block_s is not None and 0.0 <= shot.frame.time - take.block_s <= BLOCK_SECONDS
    if known or shot.plant.state.blocked:
        return "JAMMED", RED
    if shot.frame.status.in_force:
        return "FEEDER SLOWED", BLUE
    return ("ALARM", AMBER) if shot.tick.alarm.on else ("RUNNING", GREEN)


def heat(sharp: NDArray[np.uint8], surprise: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The map [rows, columns] as a glow over a picture [H, W, 3] that steps back."""
    height, width, _ = sharp.shape
    grown = Image.fromarray(surprise.astype(np.float32)).resize((width, height), Image.Resampling.BICUBIC)
    value = np.log(np.maximum(np.asarray(grown), 1e-3) / HEAT_FROM) / log(HEAT_FULL / HEAT_FROM)
    value = np.clip(value, 0.0, 1.0)[..., None].astype(np.float32)
    grey = sharp.mean(axis=-1, keepdims=True) * 0.5 + np.float32(8)
    glow = np.asarray(AMBER, np.float32) * (1 - value) + np.asarray((255, 60, 50), np.float32) * value
    alpha = 0.9 * np.sqrt(value)
    return (grey * (1 - alpha) + glow * alpha).astype(np.uint8)


def _bytes(image: object) -> NDArray[np.uint8]:
    return (np.clip(np.asarray(image), 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)


def _feeder(speed: float) -> Picture:
    """The feeder's speed as a bar."""
    width = 3 * SMALL + 2 * GAP
    picture = Image.new("RGB", (width, 56), CARD)
    pen = ImageDraw.Draw(picture)
    pen.text((0, 18), "feeder speed", MUTED, _font(17), anchor="ls")
    pen.text((width, 18), f"{100 * speed:.0f} %", INK, _font(17), anchor="rs")
    picture.paste(_rounded((width, 12), 6, WELL, CARD), (0, 32))
    if filled := round(width * speed):
        picture.paste(_rounded((max(filled, 12), 12), 6, BLUE if speed < 0.99 else GREEN, CARD), (0, 32))
    return picture


def _curve(reel: Reel, take: Take, index: int) -> Picture:
    """The score up to now on a logarithmic axis, the threshold, and what happened when."""
    width, height = CURVE[0] * 2, CURVE[1] * 2  # drawn at twice the size, for smooth lines
    picture = _rounded((width, height), 20, WELL, CARD).copy()
    pen = ImageDraw.Draw(picture)
    shots = take.shots[reel.window]
    start, seconds = shots[0].frame.time, BEFORE_S + AFTER_S

    def place(time: float, score: float) -> tuple[float, float]:
        share = log(min(max(score, CURVE_FROM), CURVE_TO) / CURVE_FROM) / log(CURVE_TO / CURVE_FROM)
        return 20 + (time - start) / seconds * (width - 40), height - 24 - share * (height - 64)

    past = take.shots[reel.window.start : index + 1]
    level = place(start, 1.0)[1]
    for dash in range(20, width - 20, 16):
        pen.line([(dash, level), (dash + 8, level)], MUTED, 2)
    pen.text((width - 20, level + 8), "alarm threshold", MUTED, _font(28), anchor="rt")
    marks = [(name, place(time, 1.0)[0], colour, row) for name, time, colour, row in _marks(take, past)]
    for _, x, colour, _ in marks:
        pen.line([(x, 20), (x, height - 24)], colour, 3)
    for name, x, colour, row in marks:
        end = x > width - 120
        at = x - 10 if end else x + 10, height - 60 - 36 * row
        pen.text(at, name, colour, _font(30), anchor="rt" if end else "lt")
    points = [(place(shot.frame.time, shot.tick.score), shot.tick.score) for shot in past]
    for (a, _), (b, score) in pairwise(points):
        pen.line([a, b], AMBER if score >= 1.0 else INK, 5)
    if points:
        (x, y), score = points[-1]
        pen.ellipse([x - 8, y - 8, x + 8, y + 8], AMBER if score >= 1.0 else INK)
    return picture.reduce(2)


def _marks(take: Take, past: Sequence[Shot]) -> Iterator[tuple[str, float, Colour, int]]:
    """Name, time, colour and row of what has happened so far: the first alarm shown, the first slowing, the jam."""
    alarm = next((shot.frame.time for shot in past if shot.tick.alarm.on), None)
    slowed = next((shot.frame.time for shot in past if shot.frame.status.in_force), None)
    jam = take.block_s if past and take.block_s is not None and past[-1].frame.time >= take.block_s else None
    marks = (("jam", jam, RED), ("slowed", slowed, BLUE), ("alarm", alarm, AMBER))  # from the lowest row up
    for row, (name, time, colour) in enumerate(marks):
        if time is not None:
            yield name, time, colour, row


@cache
def _pill(text: str, colour: Colour) -> Picture:
    width = round(_font(18).getlength(text)) + 36
    picture = _rounded((width, 36), 18, colour, CARD).copy()
    ImageDraw.Draw(picture).text((width / 2, 18), text, GROUND, _font(18), anchor="mm")
    return picture


@cache
def _corners(size: int) -> Picture:
    """The mask of a picture with round corners."""
    return _rounded((size, size), CORNER, (255, 255, 255), (0, 0, 0)).convert("L")


@cache
def _rounded(size: tuple[int, int], radius: int, fill: Colour, ground: Colour) -> Picture:
    """A filled rectangle with smooth round corners."""
    width, height = size
    picture = Image.new("RGB", (4 * width, 4 * height), ground)
    ImageDraw.Draw(picture).rounded_rectangle([0, 0, 4 * width - 1, 4 * height - 1], 4 * radius, fill)
    return picture.reduce(4)


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
