"""The demo: the embedded line runs twice from one snapshot, without and with Flinch, and says what came of it.

Nobody scripts a jam. In each run exactly one carton is drawn from the tail of how cartons come, and physics decides.
Both arms run the real loop against a PLC process in lock-step, over Modbus TCP: without Flinch in mode shadow, with
Flinch in mode act.
"""

import hashlib
import json
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from statistics import fmean, median
from typing import Any, Final

import numpy as np
from PIL import Image
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from runtime import arms, story
from runtime.arms import NUMBERS, Outcome, Trouble, assess, begin, film, flinch, frames, rounded
from runtime.line.cartons import TAILS, Tail
from runtime.line.line import SPEC
from runtime.loop import Loop
from runtime.registers import Mode
from runtime.story import Reel, Take
from wm import bundle
from wm.bundle import Bundle
from wm.errors import InputError
from wm.files import appearing

BUNDLE: Final = Path(__file__).parent / "line" / "bundle"
DEMO_SEEDS: Final = (4, 5, 11)  # of 1 to 11, the first of each kind that jams without Flinch
DEMO_OUT: Final = Path("runs/demo")

DRAW: Final = 0xDE30  # keeps the demo's random stream apart from the plant's
MOST_REELS: Final = 4
PACKAGES: Final = ("jax", "numpy", "mujoco-core", "pymodbus")
WORDS: Final[dict[Tail, str]] = {"lid": "lid open", "skew": "askew", "double": "too close", "slip": "belt slips"}


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
        task = progress.add_task("compiling the model", total=len(seeds) * frames(arms.WARM_UP_S + 2 * arms.ARM_S))
        Loop(model, arms.alarm_settings(model), Mode.SHADOW).warm_up()
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


def trouble(seed: int) -> Trouble:
    """The run's carton in trouble, released in a tail: a pure function of the seed."""
    rng = np.random.default_rng([seed, DRAW])
    return Trouble(int(rng.choice(NUMBERS)), TAILS[int(rng.integers(len(TAILS)))])


def perform(model: Bundle, seed: int, scene: Callable[[str], Callable[[], None]]) -> tuple[Outcome, Reel]:
    """Both arms of a seed's run. `scene` is given the name of what begins; what it returns is called every frame."""
    start = begin(seed, trouble(seed), scene("the line fills"))
    without = film(start, flinch(model, Mode.SHADOW, shown=True), scene("without Flinch"))
    acted = film(start, flinch(model, Mode.ACT, shown=True), scene("with Flinch"))
    outcome = assess(start, without, acted)
    takes = Take(without.shots, outcome.block_without_s), Take(acted.shots, outcome.block_with_s)
    zero = start.warm_up[-1][0].time if outcome.onset_s is None else outcome.onset_s
    return outcome, Reel(seed, outcome.kind, zero, *takes, start.plant)


# What came of them


def summarise(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The figures of all runs, and the runs."""
    jams = [outcome for outcome in outcomes if outcome.block_without_s is not None]
    return {
        "seeds": [outcome.seed for outcome in outcomes],
        "jams_without": len(jams),
        "jams_with": sum(outcome.block_with_s is not None for outcome in outcomes),
        "lead_times_s": [rounded(outcome.lead_s) for outcome in jams],
        "false_alarms": sum(len(outcome.false_alarms_s) for outcome in outcomes),
        "false_alarms_on_precursors": sum(len(outcome.false_alarms_on_precursors_s) for outcome in outcomes),
        "cartons_per_minute_without": round(fmean(outcome.cartons_per_minute_without for outcome in outcomes), 2),
        "cartons_per_minute_with": round(fmean(outcome.cartons_per_minute_with for outcome in outcomes), 2),
        "runs": [
            {**asdict(outcome), "alarm_s": outcome.alarm_s, "lead_s": rounded(outcome.lead_s)} for outcome in outcomes
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
