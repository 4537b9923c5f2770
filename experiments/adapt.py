"""How much footage a new line needs: from scratch, and from a bundle that knows other lines.

A world model learns from many lines that look otherwise, and is adapted to the first minutes of this one; others learn
from these minutes alone. One learns from footage that shows trouble for a hundredth of the time, unmarked, and is
calibrated on such footage too. All watch the same jams. They are trained side by side in one compiled step, which costs
a GPU hardly more than a single one; where that is stopped it begins anew.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray
from rich.console import Console

from experiments import baselines, plots, runfolder
from experiments.cli import huge_pages, main, progress
from experiments.forecast import SECONDS, Windows, cut, errors, foretell, mean_image
from experiments.jams import Film, Run, film, find, lead, watch
from experiments.line import EARLY_S
from experiments.workers import processes
from runtime import arms
from runtime.line.cartons import TAILS
from runtime.line.line import SPEC
from wm import alarm, bundle, calibrate, train
from wm.bundle import Bundle
from wm.config import ModelConfig, TrainConfig
from wm.data.footage import Episode, Footage
from wm.errors import InputError
from wm.types import Batch, Normaliser, Observation

PRETRAINED = "pretrained"
HELD_OUT_SHARE = 0.1
HELD_OUT_WINDOWS = 32
EVERY = 250
CALIBRATED, COUNTED = 12, 4  # episodes
SHIFT_HOURS = 8.0
WINDOWS = 128
JAMS_SEED, SPOILING_SEED = 900_000, 960_000
SPOILT = "spoilt"
SPOILT_SHARE = 0.01
SPOILING = 3  # jams of each kind of trouble
Errors = NDArray[np.float32]


@dataclass(frozen=True)
class Flags:
    """Flags of experiments.adapt."""

    lines: Path
    """Footage of many other lines, recorded with --varied."""
    footage: Path
    """Footage of this line."""
    normal: Path
    """Normal footage of this line that nothing has seen: twelve episodes to calibrate on, four to count alarms in."""
    out: Path
    """Folder of the run. Start again with the same flags and it goes on where it stopped."""
    minutes: tuple[float, ...] = (2.0, 10.0, 30.0, 120.0)
    """How much of the footage is learnt from."""
    steps: int = 10_000
    """Gradient steps from scratch."""
    tuning_steps: int = 2_500
    """Gradient steps from the bundle that knows other lines."""
    tuning_rate: float = 1e-3
    """Peak of their learning rate."""
    jams: int = 12
    """Jams of every kind of trouble that is there on entry; all of them watch the same."""
    false_alarms: float = 1.0
    """At most this many false alarms in a shift of eight hours."""
    seed: int = 0
    """Seed of all models."""
    jobs: int = 2
    """Processes that look for jams, and models that watch them, at the same time."""
    report: Path | None = None
    """Folder for finetune.json and finetune.png, beside other reports."""


class Arm(NamedTuple):
    """One model to train: parameters to start from or None, what is usual in its footage, where in the pool its windows
    may begin `[n]`, and held-out windows `[32]`.
    """

    params: dict[str, Any] | None
    normaliser: Normaliser
    starts: NDArray[np.int64]
    held_out: NDArray[np.int64]


def run(flags: Flags) -> None:
    """Detection and prediction against minutes of footage, from scratch and adapted."""
    if min(flags.steps, flags.tuning_steps, flags.jams, flags.jobs, *flags.minutes) < 1:
        raise InputError("--minutes, --steps, --tuning-steps, --jams and --jobs must be at least 1.")
    if min(flags.tuning_rate, flags.false_alarms) <= 0:
        raise InputError("--tuning-rate and --false-alarms must be above 0.")
    sets = {name: Footage.open(getattr(flags, name)) for name in ("lines", "footage", "normal")}
    for footage in sets.values():
        if footage.spec != SPEC:
            raise InputError(f"{footage.path} is not footage of the simulated line; record it.")
    if len(sets["normal"].lengths("train")) < CALIBRATED + COUNTED:
        raise InputError(f"{flags.normal} holds less than {CALIBRATED + COUNTED} episodes; record as many.")
    if len({footage.fingerprint for footage in sets.values()}) < len(sets):
        raise InputError("--lines, --footage and --normal must be three different sets of footage.")
    if sets["footage"].hours("train") * 60 < max(flags.minutes):
        raise InputError(f"{flags.footage} holds less than {max(flags.minutes):g} minutes; record more.")
    if flags.report:
        flags.report.mkdir(parents=True, exist_ok=True)
    folder = runfolder.start(flags.out, flags, **{name: footage.fingerprint for name, footage in sets.items()})
    jobs = flags.jobs
    films = _films(runfolder.kept(folder / "runs.json", partial(_found, flags.jams, JAMS_SEED, jobs)))
    spoiling = _films(runfolder.kept(folder / "spoiling.json", partial(_found, SPOILING, SPOILING_SEED, jobs)))
    models = trained(folder, flags, sets, spoiling)
    windows = cut(sets["normal"], "train", WINDOWS)
    cheap = np.min(_cheap(windows, sets["footage"]), axis=0)
    measure = partial(_kept, flags, sets["normal"], films, windows, cheap)
    spoilt = [spoiling if name.startswith(SPOILT) else [] for name in models]
    with processes(flags.jobs) as workers, progress() as bar:
        rows = workers.map(measure, models.values(), spoilt)
        task = bar.add_task("watch", total=len(models), unit="models")
        watched = []
        for name, row in zip(models, rows, strict=True):
            watched.append({"model": name, **row})
            bar.advance(task)
    metrics = {
        "rows": watched,
        "jams": len(films),
        "trained": [bundle.load(path).recipe["train"] for path in models.values()],
        "provenance": runfolder.provenance(flags),
    }
    for place in (folder, *([flags.report] if flags.report else [])):
        plots.adaptation(watched, place / "finetune.png")
    runfolder.finish(folder, metrics, flags.report and flags.report / "finetune.json")
    for row in watched:
        Console(stderr=True).print(row, highlight=False)


# Training, side by side


def trained(folder: Path, flags: Flags, sets: dict[str, Footage], spoiling: Sequence[Film]) -> dict[str, Path]:
    """The bundles of all models by name, trained now or by an earlier start."""
    config, settings = ModelConfig.of(SPEC, "small"), TrainConfig(steps=flags.steps)
    tuning = TrainConfig(steps=flags.tuning_steps, learning_rate=flags.tuning_rate)
    scratch = {f"scratch {minutes:g}": minutes for minutes in flags.minutes}
    tuned = {f"tuned {minutes:g}": minutes for minutes in flags.minutes}
    spoilt = f"{SPOILT} {max(flags.minutes):g}"
    paths = {name: folder / name.replace(" ", "_") for name in (PRETRAINED, *scratch, *tuned, spoilt)}
    if not all(path.exists() for path in paths.values()):
        troubled = _troubled(spoiling, round(SPOILT_SHARE * max(flags.minutes) * 60 * SPEC.rate_hz))
        pool = _pool([*_episodes(sets["lines"]), *_episodes(sets["footage"]), *troubled])
        first = sum(sets["lines"].lengths("train"))
        others = _arm(sets["lines"], 0, sets["lines"].frames("train"), settings.length, None)

        def own(minutes: float, given: Bundle | None) -> Arm:
            frames = round(minutes * 60 * SPEC.rate_hz)
            return _arm(sets["footage"], first, frames, settings.length, given)

        fresh = {PRETRAINED: others, **{name: own(minutes, None) for name, minutes in scratch.items()}}
        after = first + sum(sets["footage"].lengths("train"))
        fresh[spoilt] = _spoilt(own(max(flags.minutes), None), after, [len(each.times) for each in troubled], settings)
        _train(paths, flags, config, settings, fresh, pool)
        known = bundle.load(paths[PRETRAINED])
        _train(paths, flags, config, tuning, {name: own(minutes, known) for name, minutes in tuned.items()}, pool)
    return paths


def _episodes(footage: Footage) -> Iterable[Episode]:
    return (footage.read("train", number, 0, length) for number, length in enumerate(footage.lengths("train")))


def _pool(episodes: Iterable[Episode]) -> Batch:
    """The episodes one after the other, `[N]` frames."""
    every = list(episodes)
    image, sensors, action = (
        jnp.asarray(np.concatenate([getattr(each, name) for each in every]))
        for name in ("frames", "sensors", "actions")
    )
    return Batch(Observation(image, sensors), action)


def _troubled(films: Sequence[Film], frames: int) -> list[Episode]:
    """What films show from the trouble on, `frames` in all.

    Raises:
      InputError: they do not show as much.
    """
    shown = []
    for one in films:
        first = int(np.searchsorted(one.seen.times, one.onset))
        episode = _cut(one.seen, first, first + frames)
        shown.append(episode)
        frames -= len(episode.times)
        if not frames:
            return shown
    raise InputError(f"the jams that footage is spoilt with are {frames} frames short; give fewer --minutes.")


def _cut(episode: Episode, start: int, stop: int) -> Episode:
    assert episode.frames is not None
    arrays = (episode.frames, episode.sensors, episode.actions, episode.times)
    return Episode(*(array[start:stop] for array in arrays), episode.source)


def _spoilt(arm: Arm, first: int, lengths: Sequence[int], settings: TrainConfig) -> Arm:
    """The arm with trouble in its footage, episodes of these lengths that begin at `first` in the pool."""
    starts = [arm.starts]
    for length in lengths:
        starts.append(first + np.arange(max(0, length - settings.length + 1)))
        first += length
    return arm._replace(starts=np.concatenate(starts))


def _arm(footage: Footage, first: int, frames: int, length: int, given: Bundle | None) -> Arm:
    """An arm that learns from the first `frames` of footage whose frames begin at `first` in the pool, all but the last
    tenth of every episode; what is usual is the footage's own or the given bundle's.
    """
    starts, held_out, left = [], [], frames
    for episode in footage.lengths("train"):
        used = min(left, episode)
        kept = used - round(HELD_OUT_SHARE * used)
        starts.append(first + np.arange(max(0, kept - length + 1)))
        held_out.append(first + np.arange(kept, max(kept, used - length + 1)))
        first, left = first + episode, left - used
    every = np.concatenate(held_out)
    chosen = every[np.linspace(0, len(every) - 1, HELD_OUT_WINDOWS).round().astype(int)]
    normaliser = given.variables["normaliser"] if given else _usual(footage, frames)
    return Arm(given and given.variables["params"], normaliser, np.concatenate(starts), chosen)


def _usual(footage: Footage, frames: int) -> Normaliser:
    """Mean and standard deviation of tags and actions in the first `frames`; one that never changes keeps its unit."""
    episodes = list(_episodes(footage))

    def moments(name: str) -> tuple[Array, Array]:
        rows = np.concatenate([getattr(each, name) for each in episodes])[:frames]
        spread = rows.std(axis=0)
        return jnp.asarray(rows.mean(axis=0)), jnp.asarray(np.where(spread > 1e-6, spread, 1.0), jnp.float32)

    return Normaliser(*moments("sensors"), *moments("actions"))


def _train(
    paths: dict[str, Path], flags: Flags, config: ModelConfig, settings: TrainConfig, fresh: dict[str, Arm], pool: Batch
) -> None:
    """Trains those arms of which no bundle is there, and writes their bundles."""
    missing = {name: arm for name, arm in fresh.items() if not paths[name].exists()}
    if not missing:
        return
    keys = [jax.random.fold_in(jax.random.key(flags.seed), list(fresh).index(name)) for name in missing]
    for name, (variables, error, step) in zip(
        missing, side_by_side(config, settings, list(missing.values()), pool, flags.seed, keys), strict=True
    ):
        metrics = {"held_out": error, "step": step, "steps": settings.steps, "device": jax.devices()[0].device_kind}
        recipe = {"train": {"model": name, **metrics, **runfolder.provenance(flags)}}
        bundle.save(Bundle(SPEC, config, variables, recipe=recipe), paths[name])


def side_by_side(
    config: ModelConfig, settings: TrainConfig, parts: list[Arm], pool: Batch, seed: int, keys: list[Array]
) -> list[tuple[dict[str, Any], float, int]]:
    """The variables of every arm with the lowest held-out error, that error and the step, all trained at once by
    `wm.train.train_step`, each from a key of its own.
    """
    states = _stacked([train.create(config, settings, arm.normaliser, seed, arm.params) for arm in parts])
    normalisers = _stacked([arm.normaliser for arm in parts])
    counts = jnp.array([len(arm.starts) for arm in parts])
    starts = jnp.array([np.resize(arm.starts, max(map(int, counts))) for arm in parts])
    held_out = jax.vmap(partial(_windows, pool, settings.length))(jnp.array([arm.held_out for arm in parts]))
    best, lowest = states.params, np.full(len(parts), np.inf)
    steps = np.zeros(len(parts), int)
    with progress() as bar:
        task = bar.add_task(f"train {len(parts)} models", total=settings.steps, unit="steps")
        while int(states.step[0]) < settings.steps:
            todo = min(EVERY, settings.steps - int(states.step[0]))
            states = _steps(config, settings, todo, states, normalisers, pool, starts, counts, jnp.stack(keys))
            found = np.asarray(_held_out_errors(config, settings, states.params, normalisers, held_out))
            better = jnp.asarray(found < lowest)
            best = jax.tree.map(partial(_chosen, better), states.params, best)
            steps = np.where(found < lowest, int(states.step[0]), steps)
            lowest = np.minimum(lowest, found)
            bar.update(task, advance=todo, description=f"train {len(parts)} models, {lowest.round(5).tolist()}")
    found_params = [jax.device_get(jax.tree.map(lambda x, i=i: x[i], best)) for i in range(len(parts))]
    return [
        ({"params": params, "normaliser": arm.normaliser}, float(error), int(step))
        for params, arm, error, step in zip(found_params, parts, lowest, steps, strict=True)
    ]


@partial(jax.jit, static_argnames=("config", "settings", "todo"))
def _steps(
    config: ModelConfig,
    settings: TrainConfig,
    todo: int,
    states: train.TrainState,
    normalisers: Normaliser,
    pool: Batch,
    starts: Array,
    counts: Array,
    keys: Array,
) -> train.TrainState:
    """So many steps of every arm, each on windows of its own."""

    def one(
        state: train.TrainState, normaliser: Normaliser, starts: Array, count: Array, key: Array
    ) -> train.TrainState:
        drawn, key = jax.random.split(key)
        number = jax.random.randint(jax.random.fold_in(drawn, state.step), (settings.batch,), 0, count)
        batch = _windows(pool, settings.length, starts[number])
        return train.train_step(config, settings, state, normaliser, batch, key)[0]

    def step(states: train.TrainState, _: None) -> tuple[train.TrainState, None]:
        return jax.vmap(one)(states, normalisers, starts, counts, keys), None

    return jax.lax.scan(step, states, length=todo)[0]


@partial(jax.jit, static_argnames=("config", "settings"))
def _held_out_errors(
    config: ModelConfig, settings: TrainConfig, params: dict[str, Any], normalisers: Normaliser, held_out: Batch
) -> Array:
    def one(params: dict[str, Any], normaliser: Normaliser, batch: Batch) -> Array:
        return train.open_loop_error(config, settings, {"params": params, "normaliser": normaliser}, batch)

    return jax.lax.map(lambda arm: one(*arm), (params, normalisers, held_out))


def _windows(pool: Batch, length: int, starts: Array) -> Batch:
    """Windows `[B, T]` of the pool that begin at `[B]`."""
    return jax.tree.map(lambda x: x[starts[:, None] + jnp.arange(length)], pool)


def _chosen(better: Array, new: Array, old: Array) -> Array:
    return jnp.where(better.reshape(-1, *[1] * (new.ndim - 1)), new, old)


def _stacked(trees: Iterable[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


# What came of them


def _found(jams: int, seed: int, jobs: int) -> list[Run]:
    """So many runs that jam with every kind of trouble that is there on entry."""
    return find([("entry", kind, jams) for kind in TAILS], seed, jobs)


def _films(runs: list[Any]) -> list[Film]:
    return [film(Run(place, arms.Trouble(*trouble), *rest)) for place, trouble, *rest in runs]


def _cheap(windows: Windows, footage: Footage) -> list[Errors]:
    """Errors `[2, K]` of the last frame and of the mean image."""
    context = windows.frames[:, : windows.context].astype(np.float32) / 255
    last = np.stack([baselines.copy_last(each, windows.moving.shape[1]) for each in context])
    mean = np.broadcast_to(mean_image(footage), windows.truth.shape)
    return [errors(windows, last), errors(windows, mean)]


def _kept(
    flags: Flags,
    normal: Footage,
    films: list[Film],
    windows: Windows,
    cheap: Errors,
    path: Path,
    spoiling: list[Film],
) -> dict[str, Any]:
    """What `_measured` tells of a bundle, kept beside it."""
    measure = partial(_measured, flags, path, normal, films, windows, cheap, spoiling)
    return runfolder.kept(path.with_suffix(".json"), measure)


def _measured(
    flags: Flags,
    path: Path,
    normal: Footage,
    films: list[Film],
    windows: Windows,
    cheap: Errors,
    spoiling: list[Film],
) -> dict[str, Any]:
    """What a model detects at the promised rate, and how far off its forecasts are against the best cheap ones."""
    model = bundle.load(path)
    lengths = normal.lengths("train")
    calibrate.afford(model, lengths[:CALIBRATED], flags.false_alarms, SHIFT_HOURS)
    watched = [
        np.asarray(calibrate.replay(model, normal, "train", number, lambda _: None).errors)
        for number in range(CALIBRATED + COUNTED)
    ]
    troubled = [(one, np.asarray(watch(model, one).errors)) for one in reversed(spoiling)]
    calibrated = _spoil(watched[:CALIBRATED], troubled, model.monitor.launch(SPEC.rate_hz))
    calibration, _ = calibrate.fit(model, calibrated, flags.false_alarms, SHIFT_HOURS)
    model = replace(model, calibration=calibration)

    def raised(errors: NDArray[np.float32]) -> list[int]:
        scores = calibrate.scores(calibration, calibrate.levels(model, calibration, errors))
        return alarm.raised(model.alarm, SPEC.rate_hz, scores)

    leads = [lead(one, raised(watch(model, one).errors)) for one in films]
    seen = [each for each in leads if each is not None]
    found = errors(windows, foretell(model, windows, lambda _: None).pictures) / cheap
    return {
        "alarmed_share": len(seen) / len(films),
        "alarmed_1s_share": sum(each >= EARLY_S for each in seen) / len(films),
        "median_lead_s": float(np.median(seen)) if seen else None,
        "false_alarms": sum(len(raised(each)) for each in watched[CALIBRATED:]),
        "hours_counted": sum(map(len, watched[CALIBRATED:])) / SPEC.rate_hz / 3600,
        **{f"moving_ratio_{second}s": float(found[1, round(second * SPEC.rate_hz) - 1]) for second in SECONDS},
        "leads_s": leads,
    }


def _spoil(episodes: list[Errors], troubled: list[tuple[Film, Errors]], launch: int) -> list[Errors]:
    """The errors of normal episodes, the first of which end in those of trouble until a hundredth does, if there is
    any; cut where forecasts are launched, every `launch` frames.
    """
    spoilt, left = list(episodes), round(SPOILT_SHARE * sum(map(len, episodes)))
    for number, (one, found) in enumerate(troubled):
        first = int(np.searchsorted(one.seen.times, one.onset)) // launch * launch
        whole = len(episodes[number]) // launch * launch
        spoilt[number] = np.concatenate([episodes[number][:whole], found[first : first + left]])
        left -= len(spoilt[number]) - whole
    return spoilt


if __name__ == "__main__":
    huge_pages()
    main(run)
