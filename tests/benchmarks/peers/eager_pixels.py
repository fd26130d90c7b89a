"""The loop of single-file implementations on the pixel benchmark's work; prints env steps/s.

An array of observations as replay, eager PyTorch, one environment.
"""

import sys
import time

import numpy as np
import torch
from pixel_work import Torso, make_env, work
from torch import nn

name, warmup, steps = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
numbers = work(name)
env = make_env(name)
shape = env.observation_space.shape or ()
num_actions = int(env.action_space.n)  # type: ignore[attr-defined]
capacity, batch_size = numbers["buffer_size"], numbers["batch_size"]
rng = np.random.default_rng(0)


def q_network() -> nn.Sequential:
    torso = Torso(shape)
    return nn.Sequential(torso, nn.Linear(torso.num_features, num_actions))


online, target = q_network(), q_network()
target.load_state_dict(online.state_dict())
optimizer = torch.optim.Adam(online.parameters(), lr=numbers["learning_rate"])
observations, next_observations = (np.zeros((capacity, *shape), np.uint8) for _ in range(2))
actions, rewards = np.zeros(capacity, np.int64), np.zeros(capacity, np.float32)
terminations = np.zeros(capacity, np.float32)


def update() -> None:
    rows = rng.integers(min(t + 1, capacity), size=batch_size)
    with torch.no_grad():
        next_value = target(torch.from_numpy(next_observations[rows])).amax(1)
        going_on = 1.0 - torch.from_numpy(terminations[rows])
        y = torch.from_numpy(rewards[rows]) + 0.99 * going_on * next_value
    q_values = online(torch.from_numpy(observations[rows]))
    q = q_values.gather(1, torch.from_numpy(actions[rows]).unsqueeze(1)).squeeze(1)
    loss = nn.functional.smooth_l1_loss(q, y)
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(online.parameters(), 10)
    optimizer.step()


obs, _ = env.reset(seed=0)
started = 0.0
for t in range(warmup + steps):
    if t == warmup:
        started = time.perf_counter()
    if rng.random() < 0.05:
        action = int(rng.integers(num_actions))
    else:
        with torch.no_grad():
            action = int(online(torch.from_numpy(np.asarray(obs)[None])).argmax(1))
    next_obs, reward, terminated, truncated, _ = env.step(action)
    row = t % capacity
    observations[row], next_observations[row], actions[row] = obs, next_obs, action
    rewards[row], terminations[row] = float(reward), terminated
    obs = env.reset()[0] if terminated or truncated else next_obs
    if t >= numbers["learning_starts"] and t % numbers["train_freq"] == 0:
        update()
    if t % numbers["target_update_interval"] == 0:
        target.load_state_dict(online.state_dict())
print(steps / (time.perf_counter() - started))
