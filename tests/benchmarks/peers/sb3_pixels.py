"""Stable-Baselines3's DQN on the pixel benchmark's work; prints env steps per second."""

import sys
import time

import torch
from pixel_work import Torso, make_env, work
from sb3_clock import Clock
from stable_baselines3 import DQN
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor

name, warmup, steps = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])


class Features(BaseFeaturesExtractor):  # type: ignore[misc]
    """The benchmark's torso; Stable-Baselines3 adds the last layer."""

    def __init__(self, space: object) -> None:
        torso = Torso(space.shape)  # type: ignore[attr-defined]
        super().__init__(space, torso.num_features)
        self.torso = torso

    def forward(self, obs: Tensor) -> Tensor:
        return self.torso(obs)


clock = Clock(warmup)
agent = DQN(
    "CnnPolicy",
    make_env(name),
    **work(name),
    gradient_steps=1,
    exploration_initial_eps=0.05,
    exploration_final_eps=0.05,
    max_grad_norm=10,
    policy_kwargs={
        "features_extractor_class": Features,
        "net_arch": [],
        "normalize_images": False,
        "optimizer_class": torch.optim.Adam,
    },
    device="cpu",
)
agent.learn(warmup + steps, callback=clock)
print(steps / (time.perf_counter() - clock.started))
