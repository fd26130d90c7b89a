"""The games and networks of the pixel benchmarks, for peers in plain PyTorch."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn


def make_env(name: str) -> gym.Env[Any, Any]:
    """The game `minatar/NAME` as planes [C, 10, 10], or `atari/NAME` as frames [4, 84, 84]."""
    kind, game = name.split("/")
    if kind == "minatar":
        import minatar.gym

        minatar.gym.register_envs()
        env = gym.make("MinAtar/" + game.title().replace("_", "") + "-v1")
        return PlanesFirst(env)
    import ale_py

    gym.register_envs(ale_py)
    rom = "".join(part.title() for part in game.split("_"))
    env = gym.make(f"ALE/{rom}-v5", frameskip=1, repeat_action_probability=0.25)
    env = gym.wrappers.AtariPreprocessing(env, noop_max=0, frame_skip=4, screen_size=84)
    return gym.wrappers.FrameStackObservation(env, 4)


class PlanesFirst(gym.ObservationWrapper[Any, Any, Any]):
    """Planes [H, W, C] of bool as uint8 [C, H, W], as convolutions take them."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        height, width, planes = env.observation_space.shape or ()
        self.observation_space = gym.spaces.Box(0, 1, (planes, height, width), np.uint8)

    def observation(self, observation: Any) -> Any:
        """The planes in the other order."""
        return observation.transpose(2, 0, 1).astype(np.uint8)


class Torso(nn.Module):
    """Young and Tian's (2019) layers for planes of 10x10, Mnih et al.'s (2015) for frames."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        planes = shape[0]
        self.scale = 1.0 if shape[1] == 10 else 255.0
        self.num_features = 128 if shape[1] == 10 else 512
        layers = (
            [nn.Conv2d(planes, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(1024, 128), nn.ReLU()]
            if shape[1] == 10
            else [
                nn.Conv2d(planes, 32, 8, 4),
                nn.ReLU(),
                nn.Conv2d(32, 64, 4, 2),
                nn.ReLU(),
                nn.Conv2d(64, 64, 3),
                nn.ReLU(),
                nn.Flatten(),
                nn.Linear(3136, 512),
                nn.ReLU(),
            ]
        )
        self.layers = nn.Sequential(*layers)

    def forward(self, obs: Tensor) -> Tensor:
        """Features of uint8 observations."""
        features: Tensor = self.layers(obs.float() / self.scale)
        return features


# An update every step of MinAtar, every fourth of Atari.
TRAIN_FREQUENCY = {"minatar": 1, "atari": 4}


def work(name: str) -> dict[str, Any]:
    """What all peers do: the numbers that speed.py gives ours, too."""
    torch.set_num_threads(1)
    return {
        "learning_rate": 2.5e-4,
        "buffer_size": 20_000,
        "learning_starts": 500,
        "batch_size": 32,
        "train_freq": TRAIN_FREQUENCY[name.split("/", maxsplit=1)[0]],
        "target_update_interval": 1000,
    }
