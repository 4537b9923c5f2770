"""The demo: the embedded line runs twice from one snapshot, without and with Flinch, and says what came of it.

Nobody scripts a jam. In each run exactly one carton is drawn from the tail of how cartons come, and physics decides.
Both arms run the real loop against a PLC process in lock-step, over Modbus TCP: without Flinch in mode shadow, with
Flinch in mode act.
"""

import hashlib
import json
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import fmean, median
from typing import Any, Final, NamedTuple

import numpy as np
from PIL import Image
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from runtime import story
from runtime.alarm import AlarmSettings
from runtime.line import server
from runtime.line.cartons import TAILS, Tail
from runtime.line.line import SPEC, Line, LineFrame, Snapshot
from runtime.line.plant import Events
from runtime.line.plant import Snapshot as PlantSnapshot
from runtime.loop import Loop
from runtime.plc import Fault, PlcClient
from runtime.registers import Mode
from runtime.settings import ActSettings
from runtime.story import Reel, Shot, Take
from wm import bundle
from wm.bundle import Bundle
from wm.errors import InputError
from wm.files import appearing

BUNDLE: Final = Path(__file__).parent / "line" / "bundle"
DEMO_SEEDS: Final = (4, 5, 11)  # of 1 to 11, the first of each kind that jams without Flinch
DEMO_OUT: Final = Path("runs/demo")

RUN_IN_S: Final = 60.0  # unwatched: the line fills, and so does the minute that its rate of cartons looks back on
WARM_UP_S: Final = 6.0  # watched, before the snapshot; the monitor's longest horizon is 3 s
ARM_S: Final = 26.0
NUMBERS: Final = range(78, 81)  # of the tail carton: it comes into view 2 to 5 s after the snapshot
DRAW: Final = 0xDE30  # keeps the demo's random stream apart from the plant's

FORESIGHT_S: Final = 8.0  # an alarm that no jam follows within this time is a false one
DEADLINE_S: Final = 5.0  # of the PLC client: in lock-step a slow machine must not change the run
MOST_REELS: Final = 4
PACKAGES: Final = ("jax", "numpy", "mujoco-core", "pymodbus")
WORDS: Final[dict[Tail, str]] = {"lid": "lid open", "skew": "askew", "double": "too close", "slip": "belt slips"}


class Start(NamedTuple):
    """What both arms start from: the line, the frames that the monitor has watched, and the snapshot after them."""

    seed: int
    tails: dict[int, Tail]
    warm_up: list[tuple[LineFrame, PlantSnapshot]]
    snapshot: Snapshot


class Arm(NamedTuple):
    """One arm from the warm-up on, and what the oracle saw in it."""

    shots: tuple[Shot, ...]
    events: Events


@dataclass(frozen=True)
class Outcome:
    """What happened in one run. Times are seconds of the line's clock; None stands for never.

    Attributes:
      kind, carton: tail and number of the one carton that was drawn from a tail.
      onset_s, left_s: when it came into view and when it left the line, without Flinch.
      alarms_without_s, alarms_with_s: every time the alarm came, warm-up included.
      write_s: when the PLC first had a request in force, with Flinch.
      block_without_s, block_with_s: when the jam began, as the oracle dates it.
      cartons_per_minute_without, cartons_per_minute_with: over the arm.
    """

    seed: int
    kind: Tail
    carton: int
    onset_s: float | None
    left_s: float | None
    alarms_without_s: tuple[float, ...]
    alarms_with_s: tuple[float, ...]
    write_s: float | None
    block_without_s: float | None
    block_with_s: float | None
    cartons_per_minute_without: float
    cartons_per_minute_with: float

    @property
    def alarm_s(self) -> float | None:
        """The first alarm after the onset, without Flinch."""
        return next((t for t in self.alarms_without_s if self.onset_s is not None and t >= self.onset_s), None)

    @property
    def lead_s(self) -> float | None:
        """From the alarm to the jam that would have been: the first alarm from the onset on that is neither too late
        nor so early that it cannot have meant this jam."""
        if self.block_without_s is None or self.onset_s is None:
            return None
        first = max(self.onset_s, self.block_without_s - FORESIGHT_S)
        return next(
            (self.block_without_s - t for t in self.alarms_without_s if first <= t < self.block_without_s), None
        )

    @property
    def false_alarms_s(self) -> tuple[float, ...]:
        """Alarms that no jam followed in time. What is raised on a line that has jammed already is none of them."""
        meant = float("inf")
        if self.block_without_s is not None and self.onset_s is not None:
            meant = max(self.onset_s, self.block_without_s - FORESIGHT_S)
        return tuple(t for t in self.alarms_without_s if t < meant)

    @property
    def false_alarms_on_precursors_s(self) -> tuple[float, ...]:
        """Those of them that came while the tail carton was on the line and in view."""
        if self.onset_s is None:
            return ()
        left = float("inf") if self.left_s is None else self.left_s
        return tuple(t for t in self.false_alarms_s if self.onset_s <= t <= left)


def run(seeds: Sequence[int], out: Path) -> int:
    """Runs both arms for every seed; writes summary.json, story.mp4 and story.png to `out`. Returns the exit code.

    Raises:
      InputError: there is no sound bundle for the line, or `out` cannot be a folder.
      ConnectionError: a PLC process died.
    """
    model = bundle.load(BUNDLE)
    if model.spec != SPEC or model.calibration is None:
        raise InputError(f"{BUNDLE} is not a calibrated bundle of the embedded line; restore it from the repository.")
    _prepare(out)
    pointer = _pointer(model)
    console = Console()
    outcomes: list[Outcome] = []
    reels: dict[int, Reel] = {}
    with _progress(console) as progress:
        task = progress.add_task("compiling the model", total=len(seeds) * _frames(WARM_UP_S + 2 * ARM_S))
        Loop(model, _alarm(model), Mode.SHADOW).warm_up()
        for index, seed in enumerate(seeds):

            def scene(name: str, seed: int = seed) -> Callable[[], None]:
                progress.update(task, description=f"seed {seed}, {name}")
                return lambda: progress.advance(task)

            outcome, reel = perform(model, seed, scene)
            outcomes.append(outcome)
            console.print(f"seed {seed}: {sentence(outcome)}", highlight=False)
            best = starring(outcomes)
            reels = {number: each for number, each in {**reels, index: reel}.items() if number in best}
        shown = [reels[index] for index in sorted(reels)]
        progress.update(task, description="runs")
        filming = progress.add_task("story.mp4", total=story.length(shown))
        with appearing(out / "story.mp4") as file:
            pictures = story.draw(shown, closing_words(outcomes).replace(". ", ".\n"))
            story.encode(file, _counted(pictures, lambda: progress.advance(filming)))
        with appearing(out / "story.png") as file:
            story.still(max(shown, key=lambda reel: reel.acted.block_s is None)).save(file)
    with appearing(out / "summary.json") as file:
        summary = {**summarise(outcomes), "bundle": pointer, "versions": _versions()}
        file.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    console.print(table(outcomes), closing_words(outcomes), f"Wrote {out}/summary.json and {out}/story.mp4.", sep="\n")
    return 0


# One run


def trouble(seed: int) -> tuple[int, Tail]:
    """Number and kind of the run's tail carton: a pure function of the seed."""
    rng = np.random.default_rng([seed, DRAW])
    return int(rng.choice(NUMBERS)), TAILS[int(rng.integers(len(TAILS)))]


def perform(model: Bundle, seed: int, scene: Callable[[str], Callable[[], None]]) -> tuple[Outcome, Reel]:
    """Both arms of a seed's run. `scene` is given the name of what begins; what it returns is called every frame."""
    number, kind = trouble(seed)
    tails = {number: kind}
    with Line(seed, tail_rate=0.0, tails=tails) as line:
        tick = scene("the line fills")
        while line.time < RUN_IN_S:
            line.scan()
        warm_up = []
        for _ in range(_frames(WARM_UP_S)):
            warm_up.append((line.step(), line.plant.snapshot()))
            tick()
        start = Start(seed, tails, warm_up, line.snapshot())
        plant = line.plant
    without = _film(model, start, Mode.SHADOW, scene("without Flinch"))
    acted = _film(model, start, Mode.ACT, scene("with Flinch"))
    outcome = assess(seed, number, kind, without, acted)
    takes = Take(without.shots, outcome.block_without_s), Take(acted.shots, outcome.block_with_s)
    zero = warm_up[-1][0].time if outcome.onset_s is None else outcome.onset_s
    return outcome, Reel(seed, kind, zero, *takes, plant)


def _film(model: Bundle, start: Start, mode: Mode, tick: Callable[[], None]) -> Arm:
    """One arm: a PLC process in lock-step, the loop warmed by the frames before the snapshot, and frame by frame on."""
    with (
        server.running(lockstep=True, state=start.snapshot.plc) as plc,
        Line(start.seed, tail_rate=0.0, tails=start.tails, plc=plc.address) as line,
        closing(PlcClient(plc.address, line.registers, deadline_s=DEADLINE_S)) as client,
    ):
        line.restore(start.snapshot)
        loop = Loop(model, _alarm(model), mode)
        shots = [_shot(loop, model, frame, plant) for frame, plant in start.warm_up]
        for _ in range(_frames(ARM_S)):
            shots.append(_shot(loop, model, line.step(), line.plant.snapshot()))
            answer = client.exchange(shots[-1].tick.command)
            if isinstance(answer, Fault):
                raise ConnectionError(answer.reason)
            tick()
        return Arm(tuple(shots), line.events)


def _shot(loop: Loop, model: Bundle, frame: LineFrame, plant: PlantSnapshot) -> Shot:
    tick = loop.tick(frame.image, frame.sensors, frame.action, frame.time)
    ahead = loop.look_ahead(frame.action)
    assert tick.surprise is not None and ahead is not None, tick.fault
    return Shot(frame, tick, tick.surprise, ahead[model.monitor.shown], plant)


def _alarm(model: Bundle) -> AlarmSettings:
    return AlarmSettings.of(model.alarm, ActSettings(), SPEC.rate_hz)


def _frames(seconds: float) -> int:
    return round(seconds * SPEC.rate_hz)


def assess(seed: int, number: int, kind: Tail, without: Arm, acted: Arm) -> Outcome:
    """What happened, from what both arms recorded."""
    onset = next((onset.time for onset in without.events.onsets), None)
    on_line = [any(item.carton.number == number for item in shot.plant.state.on_line) for shot in without.shots]
    came = on_line.index(True) if any(on_line) else len(on_line)
    left = on_line.index(False, came) if False in on_line[came:] else None
    alarms, alarms_with = _alarms(without), _alarms(acted)
    return Outcome(
        seed=seed,
        kind=kind,
        carton=number,
        onset_s=_rounded(onset),
        left_s=None if left is None else _rounded(without.shots[left].frame.time),
        alarms_without_s=alarms,
        alarms_with_s=alarms_with,
        write_s=next((_rounded(shot.frame.time) for shot in acted.shots if shot.frame.status.in_force), None),
        block_without_s=next((_rounded(block.time) for block in without.events.blocks), None),
        block_with_s=next((_rounded(block.time) for block in acted.events.blocks), None),
        cartons_per_minute_without=_cartons_per_minute(without),
        cartons_per_minute_with=_cartons_per_minute(acted),
    )


def _alarms(arm: Arm) -> tuple[float, ...]:
    """When the alarm came on."""
    on = [False, *(shot.tick.alarm.on for shot in arm.shots)]
    times = (shot.frame.time for shot in arm.shots)
    return tuple(round(time, 3) for time, before, now in zip(times, on, on[1:], strict=False) if now and not before)


def _cartons_per_minute(arm: Arm) -> float:
    """Cartons that left the line after the snapshot, per minute of the arm."""
    out = arm.shots[-1].plant.state.cartons_out - arm.shots[-_frames(ARM_S) - 1].plant.state.cartons_out
    return out * 60.0 / ARM_S


def _rounded(time: float | None) -> float | None:
    return None if time is None else round(time, 3)


# What came of them


def summarise(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The figures of all runs, and the runs."""
    jams = [outcome for outcome in outcomes if outcome.block_without_s is not None]
    return {
        "seeds": [outcome.seed for outcome in outcomes],
        "jams_without": len(jams),
        "jams_with": sum(outcome.block_with_s is not None for outcome in outcomes),
        "lead_times_s": [_rounded(outcome.lead_s) for outcome in jams],
        "false_alarms": sum(len(outcome.false_alarms_s) for outcome in outcomes),
        "false_alarms_on_precursors": sum(len(outcome.false_alarms_on_precursors_s) for outcome in outcomes),
        "cartons_per_minute_without": round(fmean(outcome.cartons_per_minute_without for outcome in outcomes), 2),
        "cartons_per_minute_with": round(fmean(outcome.cartons_per_minute_with for outcome in outcomes), 2),
        "runs": [
            {**asdict(outcome), "alarm_s": outcome.alarm_s, "lead_s": _rounded(outcome.lead_s)} for outcome in outcomes
        ],
    }


def starring(outcomes: Sequence[Outcome]) -> list[int]:
    """Which runs the story shows: those that jam, or the first ones; different kinds first, `MOST_REELS` at most."""
    jams = [index for index, outcome in enumerate(outcomes) if outcome.block_without_s is not None]
    pool = jams or list(range(len(outcomes)))
    kinds = [outcomes[index].kind for index in pool]
    first = [index for place, index in enumerate(pool) if kinds[place] not in kinds[:place]]
    return sorted([*first, *(index for index in pool if index not in first)][:MOST_REELS])


def sentence(outcome: Outcome) -> str:
    """One run in words."""
    said = WORDS[outcome.kind]
    if outcome.block_without_s is None:
        said += ", passes without a jam" + (", false alarm" if outcome.false_alarms_s else ", no alarm")
        return said + (", and jams with Flinch" if outcome.block_with_s is not None else "")
    warned = "no alarm in time" if outcome.lead_s is None else f"alarm {outcome.lead_s:.1f} s before"
    averted = "no jam with Flinch" if outcome.block_with_s is None else "jams with Flinch too"
    return f"{said}, jams at {outcome.block_without_s:.1f} s; {warned}; {averted}"


def closing_words(outcomes: Sequence[Outcome]) -> str:
    """All runs in plain words."""
    figures = summarise(outcomes)
    jams, leads = figures["jams_without"], [lead for lead in figures["lead_times_s"] if lead is not None]
    said = f"{jams} of {len(outcomes)} runs jammed without Flinch, {figures['jams_with']} with it."
    if jams:
        said += f" It saw {len(leads)} of {jams} jams coming"
        said += f", {median(leads):.1f} s ahead in the median." if leads else "."
    return f"{said} False alarms: {figures['false_alarms']}."


def table(outcomes: Sequence[Outcome]) -> Table:
    """All runs."""
    caption = "seconds of the line's clock; pace in cartons a minute"
    rows = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), header_style="dim", caption=caption, caption_justify="left")
    for name in ("seed", "trouble"):
        rows.add_column(name, no_wrap=True)
    for name in ("in view", "alarm", "slowed", "would\njam", "lead", "jam with\nFlinch", "pace\nwithout", "pace\nwith"):
        rows.add_column(name, justify="right", no_wrap=True)
    for outcome in outcomes:
        times = outcome.onset_s, outcome.alarm_s, outcome.write_s, outcome.block_without_s, outcome.lead_s
        pace = outcome.cartons_per_minute_without, outcome.cartons_per_minute_with
        cells = ("-" if figure is None else f"{figure:.1f}" for figure in (*times, outcome.block_with_s, *pace))
        rows.add_row(str(outcome.seed), WORDS[outcome.kind], *cells)
    return rows


# Files and progress


def _prepare(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out}: cannot be a folder ({error.strerror}); choose another --out.") from error


def _pointer(model: Bundle) -> dict[str, Any]:
    """Which bundle it was: the hash over all its files, and where its recipe stands."""
    checksums = (BUNDLE / "checksums.json").read_bytes()
    recipe = "runtime/line/bundle/bundle.json"
    return {"sha256": hashlib.sha256(checksums).hexdigest(), "recipe": recipe, "size": asdict(model.config)}


def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{package: version(package) for package in PACKAGES}}


def _progress(console: Console) -> Progress:
    return Progress(TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn(), console=console)


def _counted(pictures: Iterator[Image.Image], tick: Callable[[], None]) -> Iterator[Image.Image]:
    for picture in pictures:
        yield picture
        tick()
