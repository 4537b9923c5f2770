"""sheeprl's DreamerV3 world model, timed for `experiments.benchmark` in an environment of its own.

Run by the peer's interpreter, which knows nothing of Flinch. The sizes come as arguments; a line of standard input
names a job and how often to do it, and the milliseconds of each go back on a line of standard output.
"""

import json
import sys
import time
from bisect import bisect
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import gymnasium
import hydra
import numpy as np
import torch
from hydra import compose, initialize_config_module
from lightning.fabric import Fabric
from omegaconf import OmegaConf
from sheeprl.algos.dreamer_v3_5.agent import build_agent
from sheeprl.algos.dreamer_v3_5.dreamer_v3_5 import world_model_loss, world_model_loss_kwargs
from sheeprl.utils.utils import dotdict, unwrap_fabric

DETER = range(64, 1025, 16)


def build(parameters: int, deter: int | None = None) -> tuple[Any, Any]:
    """Its 1M preset with the largest recurrent state that has no more than `parameters`, without the wrappers for
    training on several devices: (config, world model).
    """
    if deter is None:
        above = bisect(DETER, parameters, key=lambda size: count(build(parameters, size)[1]))
        deter = DETER[max(0, above - 1)]
    with initialize_config_module("sheeprl.configs", version_base="1.3"):
        config = compose(
            "config",
            overrides=[
                "exp=dreamer_v3",
                "env=dummy",
                "algo=dreamer_v3_5_1M",
                "algo.cnn_keys.encoder=[rgb]",
                "algo.mlp_keys.encoder=[]",
                "fabric.accelerator=cpu",
                f"algo.world_model.recurrent_model.recurrent_state_size={deter}",
            ],
        )
    config = dotdict(OmegaConf.to_container(config, resolve=True))
    space = gymnasium.spaces.Dict({"rgb": gymnasium.spaces.Box(0, 255, (3, 64, 64), np.uint8)})
    return config, unwrap_fabric(build_agent(Fabric(accelerator="cpu", devices=1), [1], True, config, space)[0])


def count(world: Any) -> int:
    parts = (world.encoder, world.rssm, world.observation_model, world.reward_model, world.continue_model)
    return sum(x.numel() for part in parts for x in part.parameters())


def jobs(
    config: Any, world: Any, batch: int, length: int, horizon: int, candidates: int, planned: int
) -> dict[str, Callable[[], object]]:
    """The same four jobs that `experiments.benchmark` times of Flinch; and what is most of a decision, to dream what
    comes of so many candidates and to tell what it is worth.
    """
    parts = (world.encoder, world.rssm, world.observation_model, world.reward_model, world.continue_model)
    parameters = [x for part in parts for x in part.parameters()]
    optimiser = hydra.utils.instantiate(config.algo.optimizer, params=parameters)
    deter = config.algo.world_model.recurrent_model.recurrent_state_size
    stoch = config.algo.world_model.stochastic_size * config.algo.world_model.discrete_size
    kwargs = world_model_loss_kwargs(config)
    pictures = torch.randint(0, 256, (length, batch, 3, 64, 64), dtype=torch.uint8)
    steps = torch.zeros(length, batch, 1)

    def train_step() -> None:
        starts = torch.zeros(1, batch, deter), torch.zeros(1, batch, stoch)
        loss = world_model_loss(world, {"rgb": pictures}, steps, steps, steps, steps, *starts, **kwargs)[0]
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()

    one = {"rgb": pictures[:1, :1].float() / 255 - 0.5}
    state = torch.zeros(1, 1, deter), torch.zeros(1, 1, stoch)
    action = torch.zeros(1, 1, 1)

    def look() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        observation = world.rssm.project_observations(world.encoder(one))
        return world.rssm.dynamic(state[1], state[0], world.rssm.embed_actions(action), observation)

    @torch.no_grad()
    def filter_frame() -> object:
        return look()

    @torch.no_grad()
    def score_frame() -> object:
        recurrent, posterior, log_posterior = look()
        divergence = (log_posterior.exp() * (log_posterior - world.rssm.prior_logits(recurrent))).sum((-2, -1))
        decoded = world.observation_model(torch.cat((posterior, recurrent), -1))["rgb"]
        return divergence, torch.square(decoded - one["rgb"] - 0.5).mean()

    @torch.no_grad()
    def imagine() -> object:
        recurrent, prior = state
        latents = []
        for _ in range(horizon):
            prior, recurrent = world.rssm.imagination(prior, recurrent, action)
            latents.append(torch.cat((prior, recurrent), -1))
        return world.observation_model(torch.cat(latents))["rgb"]

    actions = torch.zeros(planned, 1, candidates, 1)

    @torch.no_grad()
    def plan() -> object:
        recurrent, prior = (x.expand(1, candidates, -1) for x in state)
        latents = []
        for action in actions:
            prior, recurrent = world.rssm.imagination(prior, recurrent, action)
            latents.append(torch.cat((prior, recurrent), -1))
        return world.reward_model(torch.cat(latents))

    return {"train_step": train_step, "filter": filter_frame, "score": score_frame, "imagine": imagine, "plan": plan}


def main() -> None:
    parameters, cores, *sizes = map(int, sys.argv[1:])
    torch.set_num_threads(cores)
    config, world = build(parameters)
    ready = {"name": f"sheeprl {version('sheeprl')}, torch {version('torch')}", "parameters": count(world)}
    answers = sys.stdout
    sys.stdout = sys.stderr
    print(json.dumps(ready), file=answers, flush=True)
    work = jobs(config, world, *sizes)
    for line in sys.stdin:
        name, times_asked = line.split()
        times = []
        for _ in range(int(times_asked)):
            began = time.perf_counter()
            work[name]()
            times.append(1e3 * (time.perf_counter() - began))
        print(json.dumps(times), file=answers, flush=True)


if __name__ == "__main__":
    main()
