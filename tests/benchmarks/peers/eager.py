"""The loop of the tutorials (deque, eager PyTorch) on the benchmark's work; prints steps/s."""

import random
import sys
import time
from collections import deque
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import nn

env_id, warmup, steps = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(1)

env = gym.make(env_id)
assert isinstance(env.action_space, gym.spaces.Discrete)
assert env.observation_space.shape is not None
obs_size, num_actions = env.observation_space.shape[0], int(env.action_space.n)


def q_network() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(obs_size, 64),
        nn.ReLU(),
        nn.Linear(64, 64),
        nn.ReLU(),
        nn.Linear(64, num_actions),
    )


online, target = q_network(), q_network()
target.load_state_dict(online.state_dict())
optimizer = torch.optim.Adam(online.parameters(), lr=1e-3)
memory: deque[tuple[Any, ...]] = deque(maxlen=10_000)
obs, _ = env.reset(seed=0)
started = 0.0
for t in range(warmup + steps):
    if t == warmup:
        started = time.perf_counter()
    if random.random() < 0.05:
        action = random.randrange(num_actions)
    else:
        with torch.no_grad():
            action = int(online(torch.as_tensor(obs).unsqueeze(0)).argmax(1))
    next_obs, reward, terminated, truncated, _ = env.step(action)
    memory.append((obs, action, reward, next_obs, terminated))
    obs = env.reset()[0] if terminated or truncated else next_obs
    if len(memory) < 100:
        continue
    columns = zip(*random.sample(memory, 64), strict=True)
    b_obs, b_action, b_reward, b_next_obs, b_terminated = (np.array(c) for c in columns)
    with torch.no_grad():
        next_value = target(torch.as_tensor(b_next_obs)).amax(1)
        mask = 1.0 - torch.as_tensor(b_terminated, dtype=torch.float32)
        y = torch.as_tensor(b_reward, dtype=torch.float32) + 0.99 * mask * next_value
    q = online(torch.as_tensor(b_obs)).gather(1, torch.as_tensor(b_action).unsqueeze(1)).squeeze(1)
    loss = nn.functional.smooth_l1_loss(q, y)
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(online.parameters(), 10)
    optimizer.step()
    if t % 500 == 0:
        target.load_state_dict(online.state_dict())
print(steps / (time.perf_counter() - started))
