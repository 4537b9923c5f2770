"""Standard tasks, so that strangers can judge: collect an episode, fit the world model, learn in its dreams, and again.

The same world model, actor and critic as on the line, without a camera; every random number is derived from seed,
episode and step, so that a run that was interrupted comes to the same curve. The published scores are those of
DreamerV3 (Hafner et al., Mastering Diverse Domains through World Models, table "DeepMind Control Suite scores under
proprioceptive inputs"), and, without a model, of D4PG there, both after 500,000 steps of the environment.
"""

from collections.abc import Sequence
from concurrent.futures import wait
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax import Array
from numpy.typing import NDArray
from rich.console import Console

from experiments import plots, runfolder
from experiments.cli import main, progress
from experiments.suite import REPEAT, REWARD, STEPS, Task
from experiments.workers import processes
from wm import behavior, compilation, guard, model, rssm, train
from wm.actor import Params, act
from wm.behavior import BehaviorState
from wm.config import ActionSpace, BehaviorConfig, ModelConfig, RewardConfig, TrainConfig
from wm.errors import InputError
from wm.files import appearing
from wm.reward import Reward, reward
from wm.train import TrainState
from wm.types import Batch, LatentState, Normaliser, Observation

PUBLISHED: Final = {  # DreamerV3 and D4PG
    "ball_in_cup-catch": (962.0, 968.0),
    "cartpole-balance": (990.0, 999.0),
    "cartpole-swingup": (852.0, 875.0),
    "pendulum-swingup": (788.0, 759.0),
    "reacher-easy": (954.0, 960.0),
}
PUBLISHED_STEPS: Final = 500_000
FITTING: Final = TrainConfig(batch=16, decoded=24, ramp=0.02, learning_rate=1e-3, beta_sensors=10.0)
SCORED: Final = 10  # episodes, the last of a run
LOOK_S: Final = 2.0  # from one look at how far the seeds are to the next


@dataclass(frozen=True)
class Flags:
    """Flags of experiments.tasks."""

    out: Path
    """Folder of the run. Start again with the same flags and it goes on where it stopped."""
    task: str = "cartpole-swingup"
    """Task of the DeepMind Control Suite, DOMAIN-TASK."""
    steps: int = PUBLISHED_STEPS
    """Steps of the environment, each action counted as often as it is repeated."""
    seeds: int = 3
    """How many times it learns from scratch, with seeds 0, 1, 2..."""
    every: int = 2
    """Actions to one update."""
    train: TrainConfig = field(default_factory=lambda: FITTING)
    """How the world model is fitted; its steps follow from --steps and --every."""
    behavior: BehaviorConfig = field(default_factory=lambda: BehaviorConfig(starts=128, guard=0.0))
    """How actor and critic learn; what they dream on from are states of the batch after its context."""
    jobs: int = 2
    """Seeds that learn at the same time."""
    report: Path | None = None
    """Folder for tasks.json, beside other tasks', and TASK.png."""


class Lived(NamedTuple):
    """An episode of T frames: `tags` `[T, S]`, and `actions` `[T, A]`, each of which led to its frame."""

    tags: NDArray[np.float32]
    actions: NDArray[np.float32]

    @property
    def score(self) -> float:
        return float(self.tags[:, -1].sum())


@dataclass(frozen=True)
class Progress:
    """An episode: steps of the environment after it, what it earned, and means of the losses since the one before."""

    step: int
    score: float
    means: dict[str, float]


class Learner(NamedTuple):
    """Everything that learns."""

    model: TrainState
    behavior: BehaviorState


def run(flags: Flags) -> None:
    """Learns a task from scratch with every seed; writes metrics.json and learning.png."""
    if min(flags.seeds, flags.every, flags.jobs) < 1:
        raise InputError("--seeds, --every and --jobs must be at least 1.")
    Task(flags.task, 0)
    if episodes(flags) < 1:
        raise InputError("--steps is less than an episode.")
    folder = runfolder.start(flags.out, flags)
    paths = [folder / str(seed) / "progress.jsonl" for seed in range(flags.seeds)]
    due = flags.seeds * episodes(flags)
    with processes(flags.jobs) as workers, progress() as bar:
        running = {workers.submit(learn, flags, folder / str(seed), seed) for seed in range(flags.seeds)}
        told = bar.add_task(flags.task, total=due, unit="episodes")
        while running:
            done, running = wait(running, timeout=LOOK_S)
            for each in done:
                each.result()
            bar.update(told, completed=sum(path.read_text().count("\n") for path in paths if path.exists()))
    curves = [runfolder.History(path).rows() for path in paths]
    metrics = {**summary(flags.task, curves), "curves": curves, "provenance": runfolder.provenance(flags)}
    plots.curves(curves, PUBLISHED.get(flags.task), folder / "learning.png")
    runfolder.finish(folder, metrics)
    if flags.report:
        found = {flags.task: {name: metrics[name] for name in metrics if name not in ("curves", "provenance")}}
        runfolder.merge(flags.report / "tasks.json", found, {flags.task: metrics["provenance"]})
        plots.curves(curves, PUBLISHED.get(flags.task), flags.report / f"{flags.task}.png")
    Console(stderr=True).print(f"{flags.task}: {metrics['score']:.0f} after {metrics['steps']} steps\nwrote {folder}")


def episodes(flags: Flags) -> int:
    """How many episodes a seed lives through."""
    return flags.steps // STEPS


def learn(flags: Flags, folder: Path, seed: int) -> None:
    """One seed, from its newest checkpoint on: progress.jsonl, and every episode in episodes/."""
    compilation.keep()
    (folder / "episodes").mkdir(parents=True, exist_ok=True)
    task = Task(flags.task, seed)
    due = episodes(flags)
    actions = STEPS // REPEAT
    config = ModelConfig.of_tags(task.spec)
    fitting = replace(flags.train, steps=max(1, due * actions // flags.every))
    update = Update(config, fitting, flags.behavior, task.space, reward(task.spec, RewardConfig({REWARD: 1.0}, 0.0)))
    learner, (acts, draws) = update.start(seed), jax.random.split(jax.random.key(seed))
    history, lived = runfolder.History(folder / "progress.jsonl"), []
    keep = ocp.CheckpointManagerOptions(max_to_keep=1)
    with ocp.CheckpointManager((folder / "checkpoints").absolute(), options=keep) as manager:
        if (newest := manager.latest_step()) is not None:
            learner = manager.restore(newest, args=ocp.args.StandardRestore(learner))
            lived = [read(folder / "episodes" / f"{number}.npz") for number in range(newest)]
        for number in range(len(lived), due):
            one = live(Task(flags.task, episode_seed(seed, number)), update, learner, jax.random.fold_in(acts, number))
            with appearing(folder / "episodes" / f"{number}.npz") as file, file.open("wb") as stream:
                np.savez(stream, **one._asdict())
            lived.append(one)
            told = []
            for turn in range(number * actions // flags.every, (number + 1) * actions // flags.every):
                learner, terms = update(learner, drawn(lived, fitting, seed, turn), jax.random.fold_in(draws, turn))
                told.append(terms)
            means = {name: float(np.mean([terms[name] for terms in told])) for name in told[0]} if told else {}
            history.append(Progress((number + 1) * STEPS, one.score, means))
            manager.save(number + 1, args=ocp.args.StandardSave(learner))
            manager.wait_until_finished()


@dataclass(frozen=True)
class Update:
    """How everything learns at once: the world model from a batch, actor and critic in dreams from its states."""

    config: ModelConfig
    fitting: TrainConfig
    acting: BehaviorConfig
    space: ActionSpace
    worth: Reward

    def start(self, seed: int) -> Learner:
        """What knows nothing."""
        fresh = jax.random.fold_in(jax.random.key(seed), 1)
        return Learner(
            train.create(self.config, self.fitting, self.normaliser, seed),
            behavior.init(self.config, self.acting, self.space, fresh),
        )

    @property
    def normaliser(self) -> Normaliser:
        """Tags and actions as they come: what will be usual is not known when a task begins."""
        sensors, actions = self.config.sensors, self.config.actions
        return Normaliser(jnp.zeros(sensors), jnp.ones(sensors), jnp.zeros(actions), jnp.ones(actions))

    def variables(self, learner: Learner) -> model.Variables:
        return {"params": learner.model.params, "normaliser": self.normaliser}

    def __call__(self, learner: Learner, batch: Batch, key: Array) -> tuple[Learner, dict[str, Array]]:
        """One step of both; also the losses and means of both by name."""
        fit_key, filter_key, dream_key = jax.random.split(key, 3)
        fitted, terms = train.train_step(self.config, self.fitting, learner.model, self.normaliser, batch, fit_key)
        variables = {"params": fitted.params, "normaliser": self.normaliser}
        starts, before = _starts(self.config, self.fitting.context, self.acting.starts, variables, batch, filter_key)
        acted, means = behavior.step(
            self.config,
            self.acting,
            self.space,
            self.worth,
            variables,
            guard.none(self.config),
            learner.behavior,
            starts,
            before,
            dream_key,
        )
        return Learner(fitted, acted), terms | means


@partial(jax.jit, static_argnames=("config", "context", "count"))
def _starts(
    config: ModelConfig, context: int, count: int, variables: model.Variables, batch: Batch, key: Array
) -> tuple[LatentState, Array]:
    """So many of the states of a batch `[B, T]` after its context, `[count, ...]`, and the actions that led to them."""
    filter_key, choice_key = jax.random.split(key)
    embedding = model.encode(config, variables, batch.observation)
    start = rssm.start(config, batch.action.shape[:1])
    states, _ = model.observe(config, variables, start, embedding, batch.action, filter_key)
    found = jax.tree.map(lambda x: x[:, context:].reshape(-1, *x.shape[2:]), (states, batch.action))
    chosen = jax.random.permutation(choice_key, len(found[1]))[:count]
    return jax.tree.map(lambda x: x[chosen], found)


@partial(jax.jit, static_argnames=("update",))
def _choose(
    update: Update,
    variables: model.Variables,
    actor: Params,
    latent: LatentState,
    action: Array,
    tags: Array,
    key: Array,
) -> tuple[LatentState, Array]:
    """The state that `action` led to, once the tags are in, and the next action, drawn."""
    look_key, act_key = jax.random.split(key)
    embedding = model.encode(update.config, variables, Observation(None, tags))
    latent, _ = model.obs_step(update.config, variables, latent, action, embedding, look_key)
    return latent, act(update.acting, update.space, actor, latent, action, act_key)


def live(task: Task, update: Update, learner: Learner, key: Array) -> Lived:
    """One episode, with the actor as it is."""
    variables, actor = update.variables(learner), learner.behavior.actor
    latent, action = rssm.start(update.config, ()), np.zeros(update.config.actions, np.float32)
    tags, actions = [task.start()], [action]
    while not task.ended:
        at = jax.random.fold_in(key, len(tags))
        latent, chosen = _choose(update, variables, actor, latent, jnp.asarray(action), jnp.asarray(tags[-1]), at)
        action = np.asarray(chosen)
        tags.append(task.step(action))
        actions.append(action)
    return Lived(np.stack(tags), np.stack(actions))


def read(path: Path) -> Lived:
    with np.load(path) as kept:
        return Lived(kept["tags"], kept["actions"])


def episode_seed(seed: int, number: int) -> int:
    """Seed of an episode's task, none like another's."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


def drawn(lived: Sequence[Lived], fitting: TrainConfig, seed: int, turn: int) -> Batch:
    """A batch `[B, T]` of windows from anywhere in what was lived: a pure function of seed and turn."""
    rng = np.random.default_rng([seed, turn])
    windows = []
    for number in rng.integers(len(lived), size=fitting.batch):
        one = lived[number]
        first = int(rng.integers(len(one.tags) - fitting.length + 1))
        windows.append(Lived(*(part[first : first + fitting.length] for part in one)))
    tags, actions = (np.stack(parts) for parts in zip(*windows, strict=True))
    return Batch(Observation(None, tags), actions)


def summary(task: str, curves: list[list[dict[str, Any]]]) -> dict[str, Any]:
    """Mean score of the last episodes over all seeds, and of each; beside it the published ones."""
    each = [float(np.mean([row["score"] for row in curve[-SCORED:]])) for curve in curves]
    dreamer, without = PUBLISHED.get(task, (None, None))
    return {
        "score": float(np.mean(each)),
        "scores": each,
        "steps": curves[0][-1]["step"],
        "dreamerv3": dreamer,
        "d4pg": without,
        "published_steps": PUBLISHED_STEPS,
    }


if __name__ == "__main__":
    main(run)
