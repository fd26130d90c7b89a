"""SBX's DQN (Stable-Baselines3's with a jitted JAX update) on the benchmark's work; prints steps/s.

It has no clipping by norm of its own: its optimizer is given one.
"""

import os
import sys
import time

os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"

import gymnasium as gym
import optax
import torch
from sbx import DQN

env_id, warmup, steps = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(1)  # its replay buffer is Stable-Baselines3's


def clipped_adam(learning_rate):
    return optax.chain(optax.clip_by_global_norm(10), optax.adam(learning_rate))


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
    exploration_initial_eps=0.05,
    exploration_final_eps=0.05,
    policy_kwargs={"net_arch": [64, 64], "optimizer_class": clipped_adam},
)
agent.learn(warmup)
started = time.perf_counter()
agent.learn(steps, reset_num_timesteps=False)
print(steps / (time.perf_counter() - started))
