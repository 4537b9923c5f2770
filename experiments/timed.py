"""Flinch's side of `experiments.benchmark`: the jobs that are timed, in a process that has so many cores and no more.

The folder of a bundle and the sizes come as arguments; a line of standard input names a job and how often to do it, and
the milliseconds of each go back on a line of standard output. `experiments.peer` speaks likewise.
"""

import json
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import psutil

from wm import bundle, model, planning, rssm, train
from wm.bundle import Bundle
from wm.config import ModelConfig, PlanConfig, TrainConfig
from wm.nets import most_likely
from wm.planning import Constraints, Plan
from wm.types import Batch, LatentState, Observation

CAMERAS = (1, 2, 4, 8, 16)
SOAK_REPORTS = 20


def jobs(
    line: Bundle, batch: int, length: int, horizon: int, candidates: int, planned: int
) -> dict[str, Callable[[], object]]:
    """The jobs that the peer has too, whole ticks of the monitor for one camera and for several, the pictures to come
    that people look at, and a decision with a model of tags alone, which has a single cell, as the peer's has.
    """
    config, variables = line.config, line.variables
    assert config.image
    generator = np.random.default_rng(0)
    pictures = jnp.asarray(generator.integers(0, 256, (batch, length, *config.image), dtype=np.uint8))
    sensors = jnp.zeros((batch, length, config.sensors))
    windows = Batch(Observation(pictures, sensors), jnp.zeros((batch, length, config.actions)))
    settings = TrainConfig(batch=batch, context=TrainConfig.context, open_loop=length - TrainConfig.context)
    fitted = train.create(config, settings, variables["normaliser"], 0)
    key = jax.random.key(0)

    def train_step() -> object:
        return train.train_step(config, settings, fitted, variables["normaliser"], windows, key)

    one = Observation(pictures[:1, 0], sensors[:1, 0])
    state, action = rssm.start(config, (1,)), jnp.zeros((1, config.actions))
    actions = jnp.zeros((1, horizon, config.actions))

    @jax.jit
    def filter_frame(variables: model.Variables, one: Observation, state: LatentState, action: jax.Array) -> object:
        embedding = model.encode(config, variables, one)
        return model.obs_step(config, variables, state, action, embedding, draw=most_likely)

    @jax.jit
    def score_frame(variables: model.Variables, one: Observation, state: LatentState, action: jax.Array) -> object:
        embedding = model.encode(config, variables, one)
        after, posterior = model.obs_step(config, variables, state, action, embedding, draw=most_likely)
        divergence = rssm.kl(posterior, model.prior(config, variables, after.deter))
        error = model.image_error(model.decode(config, variables, after), one)
        return divergence, error.mean()

    @jax.jit
    def imagine(variables: model.Variables, state: LatentState, actions: jax.Array, key: jax.Array) -> object:
        states, _ = model.imagine(config, variables, state, actions, key)
        return model.decode(config, variables, states).image

    alone = ModelConfig.of_tags(line.spec)
    fresh = model.init(alone, variables["normaliser"], key)

    return {
        "train_step": train_step,
        "filter": lambda: filter_frame(variables, one, state, action),
        "score": lambda: score_frame(variables, one, state, action),
        "imagine": lambda: imagine(variables, state, actions, key),
        **{f"tick_{cameras}": tick(line, cameras) for cameras in CAMERAS},
        "look_ahead": lambda: line.look_ahead(line.start(), line.action()),
        "plan": planner(config, variables, candidates, planned),
        "plan_tags": planner(alone, fresh, candidates, planned),
    }


def planner(config: ModelConfig, variables: model.Variables, candidates: int, frames: int) -> Callable[[], object]:
    """A whole decision by CEM: so many sequences of frames are drawn, dreamt, judged by their tags and fitted."""
    search, bound = PlanConfig(candidates=candidates, horizon=frames), jnp.ones(config.actions)
    constraints = Constraints(0.0 * bound, bound, 0.2 * bound)
    state, last = rssm.start(config, ()), planning.start(search, constraints, bound)

    @jax.jit
    def decide(variables: model.Variables, last: Plan, state: LatentState, before: jax.Array, key: jax.Array) -> object:
        objective = planning.objective(config, variables, _sum, search.discount, state, before)
        return planning.plan(search, objective, constraints, last, before, key)

    return lambda: decide(variables, last, state, bound, jax.random.key(0))


def _sum(tags: jax.Array, _: jax.Array, __: jax.Array) -> jax.Array:
    return tags.sum(axis=-1)


def tick(line: Bundle, cameras: int) -> Callable[[], object]:
    """A whole tick: a frame of every camera is filtered, compared with the forecasts for it at every horizon and
    scored, its map made, and the forecasts in flight moved on.
    """
    generator = np.random.default_rng(0)
    frames = generator.integers(0, 256, (64, cameras, *(line.config.image or ())), dtype=np.uint8)
    sensors, actions = np.zeros((cameras, line.config.sensors), np.float32), np.tile(line.action(), (cameras, 1))
    states = jax.tree.map(lambda x: jnp.stack([x] * cameras), line.start())
    turn = 0

    def together() -> object:
        nonlocal states, turn
        turn += 1
        observations = Observation(jnp.asarray(frames[turn % len(frames)]), jnp.asarray(sensors))
        states, surprise = line.watch_all(states, observations, jnp.asarray(actions))
        return surprise

    def alone() -> object:
        nonlocal states, turn
        turn += 1
        observation = line.observation(frames[turn % len(frames), 0], sensors[0])
        states, surprise = line.watch(states, observation, jnp.asarray(actions[0]))
        return surprise

    if cameras == 1:
        states = line.start()
        return alone
    return together


def soak(work: Callable[[], object], count: int) -> list[float]:
    """Resident memory in MiB at even distances of so many ticks."""
    told = []
    for done in range(1, count + 1):
        jax.block_until_ready(work())
        if done % (count // SOAK_REPORTS) == 0:
            told.append(psutil.Process().memory_info().rss / 2**20)
    return told


def main() -> None:
    line = bundle.load(Path(sys.argv[1]))
    config, normaliser = ModelConfig.of_tags(line.spec), line.variables["normaliser"]
    alone = jax.eval_shape(lambda: model.init(config, normaliser, jax.random.key(0)))
    parameters, tags = (sum(x.size for x in jax.tree.leaves(each["params"])) for each in (line.variables, alone))
    print(json.dumps({"name": f"Flinch, jax {version('jax')}", "parameters": parameters, "tags": tags}), flush=True)
    work = jobs(line, *map(int, sys.argv[2:]))
    for request in sys.stdin:
        name, count = request.split()
        if name == "soak":
            print(json.dumps(soak(work["tick_1"], int(count))), flush=True)
        else:
            times = []
            for _ in range(int(count)):
                began = time.perf_counter()
                jax.block_until_ready(work[name]())
                times.append(1e3 * (time.perf_counter() - began))
            print(json.dumps(times), flush=True)


if __name__ == "__main__":
    main()
