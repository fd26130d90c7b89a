"""Stable-Baselines3's DQN on the benchmark's work; prints env steps per second."""

import sys
import time

import gymnasium as gym
import torch
from sb3_clock import Clock
from stable_baselines3 import DQN

env_id, warmup, steps = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(1)


clock = Clock(warmup)
agent = DQN(
    "MlpPolicy",
    gym.make(env_id),
    learning_rate=1e-3,
    buffer_size=10_000,
    learning_starts=100,
    batch_size=64,
    train_freq=1,
    gradient_steps=1,
    target_update_interval=500,
    exploration_fraction=0.1,
    exploration_final_eps=0.05,
    max_grad_norm=10,
    policy_kwargs={"net_arch": [64, 64]},
    device="cpu",
)
agent.learn(warmup + steps, callback=clock)
print(steps / (time.perf_counter() - clock.started))
