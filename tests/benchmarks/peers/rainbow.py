"""Rainbow as single-file implementations have it (eager PyTorch, a binary sum tree in Python).

C51 with double Q-learning, two streams, noisy layers, 3-step returns and prioritized replay on the
benchmark's network, batch and rhythm. Prints the mean return of the last episodes and, at the end,
env steps per second.
"""

import math
import sys
import time
from collections import deque
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

env_id, warmup, steps = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(1)

CAPACITY, BATCH, GAMMA, N_STEP, LR = 10_000, 64, 0.99, 3, 1e-3
LEARNING_STARTS, COPY_TARGET_EVERY = 100, 500
HIDDEN, ATOMS, SIGMA = 64, 51, 0.5
ALPHA, BETA_START, EPS = 0.6, 0.4, 1e-6
RANGES = {"CartPole-v1": (0.0, 100.0), "Acrobot-v1": (-100.0, 0.0)}
V_MIN, V_MAX = RANGES.get(env_id, (-100.0, 100.0))


class NoisyLinear(nn.Module):
    """A linear layer with factorized Gaussian noise."""

    weight_noise: Tensor
    bias_noise: Tensor

    def __init__(self, num_in: int, num_out: int) -> None:
        super().__init__()
        self.num_in, self.num_out = num_in, num_out
        bound, sigma = 1 / math.sqrt(num_in), SIGMA / math.sqrt(num_in)
        self.weight = nn.Parameter(torch.empty(num_out, num_in).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(num_out).uniform_(-bound, bound))
        self.weight_sigma = nn.Parameter(torch.full((num_out, num_in), sigma))
        self.bias_sigma = nn.Parameter(torch.full((num_out,), sigma))
        self.register_buffer("weight_noise", torch.zeros(num_out, num_in))
        self.register_buffer("bias_noise", torch.zeros(num_out))

    def reset_noise(self) -> None:
        noise_in, noise_out = self.scaled(self.num_in), self.scaled(self.num_out)
        self.weight_noise.copy_(noise_out.outer(noise_in))
        self.bias_noise.copy_(noise_out)

    @staticmethod
    def scaled(size: int) -> Tensor:
        x = torch.randn(size)
        return x.sign() * x.abs().sqrt()

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(
            x,
            self.weight + self.weight_sigma * self.weight_noise,
            self.bias + self.bias_sigma * self.bias_noise,
        )


class Network(nn.Module):
    """Logits of the atoms of each action."""

    def __init__(self, obs_size: int, num_actions: int) -> None:
        super().__init__()
        self.num_actions = num_actions
        self.torso = nn.Sequential(nn.Linear(obs_size, HIDDEN), nn.ReLU())
        self.value = nn.Sequential(
            NoisyLinear(HIDDEN, HIDDEN), nn.ReLU(), NoisyLinear(HIDDEN, ATOMS)
        )
        self.advantage = nn.Sequential(
            NoisyLinear(HIDDEN, HIDDEN), nn.ReLU(), NoisyLinear(HIDDEN, num_actions * ATOMS)
        )

    def forward(self, obs: Tensor) -> Tensor:
        features = self.torso(obs)
        value = self.value(features).view(-1, 1, ATOMS)
        advantage = self.advantage(features).view(-1, self.num_actions, ATOMS)
        logits: Tensor = value + advantage - advantage.mean(1, keepdim=True)
        return logits

    def q_values(self, obs: Tensor) -> Tensor:
        values: Tensor = (self(obs).softmax(-1) * atoms).sum(-1)
        return values

    def reset_noise(self) -> None:
        for module in self.modules():
            if isinstance(module, NoisyLinear):
                module.reset_noise()


class SumTree:
    """A binary tree whose inner nodes hold the sums of their children."""

    def __init__(self, capacity: int) -> None:
        self.first_leaf = 1
        while self.first_leaf < capacity:
            self.first_leaf *= 2
        self.nodes = [0.0] * (2 * self.first_leaf)

    def set(self, index: int, priority: float) -> None:
        node = index + self.first_leaf
        self.nodes[node] = priority
        node //= 2
        while node >= 1:
            self.nodes[node] = self.nodes[2 * node] + self.nodes[2 * node + 1]
            node //= 2

    def find(self, prefix_sum: float) -> int:
        node = 1
        while node < self.first_leaf:
            node *= 2
            if prefix_sum > self.nodes[node]:
                prefix_sum -= self.nodes[node]
                node += 1
        return node - self.first_leaf


class Replay:
    """The newest transitions, drawn in proportion to their priorities."""

    def __init__(self, obs_size: int) -> None:
        self.obs = np.zeros((CAPACITY, obs_size), np.float32)
        self.next_obs = np.zeros((CAPACITY, obs_size), np.float32)
        self.action = np.zeros(CAPACITY, np.int64)
        self.reward = np.zeros(CAPACITY, np.float32)
        self.discount = np.zeros(CAPACITY, np.float32)
        self.tree = SumTree(CAPACITY)
        self.position, self.size, self.largest = 0, 0, 1.0

    def add(self, obs, action, reward, discount, next_obs) -> None:
        i = self.position
        self.obs[i], self.action[i], self.reward[i] = obs, action, reward
        self.discount[i], self.next_obs[i] = discount, next_obs
        self.tree.set(i, self.largest)
        self.position, self.size = (i + 1) % CAPACITY, min(self.size + 1, CAPACITY)

    def sample(self, beta: float):
        total = self.tree.nodes[1]
        ranges = (np.arange(BATCH) + np.random.random(BATCH)) * (total / BATCH)
        indices = [min(self.tree.find(x), self.size - 1) for x in ranges]
        p = np.array([self.tree.nodes[i + self.tree.first_leaf] for i in indices]) / total
        importance = (self.size * p) ** -beta
        weights = torch.as_tensor(importance / importance.max(), dtype=torch.float32)
        columns = (self.obs, self.action, self.reward, self.discount, self.next_obs)
        return indices, weights, *(torch.as_tensor(column[indices]) for column in columns)

    def update(self, indices: list[int], losses: list[float]) -> None:
        for i, loss in zip(indices, losses, strict=True):
            priority = (loss + EPS) ** ALPHA
            self.tree.set(i, priority)
            self.largest = max(self.largest, priority)


def projected(reward: Tensor, discount: Tensor, probabilities: Tensor) -> Tensor:
    """The target distribution on the atoms."""
    moved = (reward.unsqueeze(1) + discount.unsqueeze(1) * atoms).clamp(V_MIN, V_MAX)
    place = (moved - V_MIN) / ((V_MAX - V_MIN) / (ATOMS - 1))
    low = place.floor().clamp(0, ATOMS - 2)
    offset = (torch.arange(BATCH) * ATOMS).unsqueeze(1)
    shares = torch.zeros(BATCH * ATOMS)
    up = place - low
    shares.index_add_(0, (low.long() + offset).view(-1), (probabilities * (1 - up)).view(-1))
    shares.index_add_(0, (low.long() + 1 + offset).view(-1), (probabilities * up).view(-1))
    return shares.view(BATCH, ATOMS)


def learn(beta: float) -> None:
    indices, weights, obs, action, reward, discount, next_obs = replay.sample(beta)
    online.reset_noise()
    target.reset_noise()
    rows = torch.arange(BATCH)
    with torch.no_grad():
        next_action = online.q_values(next_obs).argmax(1)
        probabilities = target(next_obs)[rows, next_action].softmax(-1)
        goal = projected(reward, discount, probabilities)
    log_probabilities = online(obs)[rows, action].log_softmax(-1)
    losses = -(goal * log_probabilities).sum(-1)
    optimizer.zero_grad()
    (weights * losses).mean().backward()
    nn.utils.clip_grad_norm_(online.parameters(), 10)
    optimizer.step()
    replay.update(indices, losses.tolist())


env = gym.make(env_id)
assert isinstance(env.action_space, gym.spaces.Discrete)
assert env.observation_space.shape is not None
obs_size = env.observation_space.shape[0]
atoms = torch.linspace(V_MIN, V_MAX, ATOMS)
online, target = (Network(obs_size, int(env.action_space.n)) for _ in range(2))
target.load_state_dict(online.state_dict())
optimizer = torch.optim.Adam(online.parameters(), lr=LR)
replay = Replay(obs_size)
pending: deque[tuple[Any, ...]] = deque()  # what waits for its n-step return
returns: deque[float] = deque([0.0], maxlen=20)


def add_oldest(next_obs, terminated: bool) -> None:
    reward = sum(GAMMA**k * row[2] for k, row in enumerate(pending))
    discount = 0.0 if terminated else GAMMA ** len(pending)
    obs, action, _ = pending.popleft()
    replay.add(obs, action, reward, discount, next_obs)


obs, _ = env.reset(seed=0)
started = 0.0
for t in range(warmup + steps):
    if t == warmup:
        started = time.perf_counter()
    with torch.no_grad():
        online.reset_noise()
        action = int(online.q_values(torch.as_tensor(obs).unsqueeze(0)).argmax(1))
    next_obs, reward, terminated, truncated, _ = env.step(action)
    pending.append((obs, action, float(reward)))
    returns[-1] += float(reward)
    if len(pending) == N_STEP:
        add_oldest(next_obs, terminated)
    obs = next_obs
    if terminated or truncated:
        while pending:
            add_oldest(next_obs, terminated)
        returns.append(0.0)
        obs, _ = env.reset()
    if replay.size >= LEARNING_STARTS:
        learn(BETA_START + (1 - BETA_START) * t / (warmup + steps))
    if t % COPY_TARGET_EVERY == 0:
        target.load_state_dict(online.state_dict())
elapsed = time.perf_counter() - started
print(f"mean return of the last episodes: {np.mean(list(returns)[:-1]):.1f}")
print(steps / elapsed)
