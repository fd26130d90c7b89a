"""An update as a plain torch loop writes it: modules, autograd, torch's Adam, and loops over rows.

It reads an agent's settings and shares no code with the package. Each formula is the paper's.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, parameters_to_vector, vector_to_parameters

from dqn_runner.agents.c51 import C51Spec
from dqn_runner.agents.dqn import DQNSpec
from dqn_runner.agents.hl_gauss import HLGaussSpec
from dqn_runner.agents.iqn import IQNSpec
from dqn_runner.agents.qr_dqn import QRDQNSpec
from dqn_runner.agents.spec import AgentSpec
from dqn_runner.types import Batch


class PlainNoisyLinear(nn.Linear):
    """A linear layer with the standard deviations of its factorized noise."""

    def __init__(self, num_in: int, num_out: int) -> None:
        super().__init__(num_in, num_out)
        self.weight_sigma = nn.Parameter(torch.zeros(num_out, num_in))
        self.bias_sigma = nn.Parameter(torch.zeros(num_out))


class PlainNetwork(nn.Module):
    """A layer that all share, and a stream of two layers for actions, or one for the state too.

    Its parameters are in the order that the package's networks have them in.
    """

    def __init__(self, agent: AgentSpec, sizes: tuple[int, int, int, int], *, dueling: bool,
                 noisy: bool) -> None:  # fmt: skip
        super().__init__()
        num_obs, width, self.num_actions, last_width = sizes
        linear = PlainNoisyLinear if noisy else nn.Linear
        match agent:
            case C51Spec():
                self.num_outputs = agent.num_atoms
            case HLGaussSpec():
                self.num_outputs = agent.num_bins
            case QRDQNSpec():
                self.num_outputs = agent.num_quantiles
            case _:
                self.num_outputs = 1
        self.agent = agent
        self.shared = nn.Linear(num_obs, width)
        outputs = [self.num_outputs] * dueling + [self.num_actions * self.num_outputs]
        self.layers: list[nn.Linear] = [
            layer
            for count in outputs
            for layer in (linear(width, last_width), linear(last_width, count))
        ]
        self.registered = nn.ModuleList(self.layers)
        self.embedding = None
        if isinstance(agent, IQNSpec):
            self.embedding = nn.Linear(agent.embedding_dim, width)

    def num_normals(self) -> int:
        """How many normal numbers its noise takes."""
        noisy = [layer for layer in self.layers if isinstance(layer, PlainNoisyLinear)]
        return sum(layer.in_features + layer.out_features for layer in noisy)

    def _layer(self, index: int, x: Tensor, noise: list[Tensor]) -> Tensor:
        layer = self.layers[index]
        weight: Tensor = layer.weight
        bias: Tensor = layer.bias
        if isinstance(layer, PlainNoisyLinear) and noise:
            count_in = layer.in_features
            f_in, f_out = noise[index][:count_in], noise[index][count_in:]
            weight = weight + layer.weight_sigma * torch.outer(f_out, f_in)
            bias = bias + layer.bias_sigma * f_out
        return weight @ x + bias

    def _outputs(self, features: Tensor, normals: Tensor) -> Tensor:
        """Outputs [A, K] of features [F]."""
        noise: list[Tensor] = []
        if len(normals):
            scaled = torch.sign(normals) * torch.sqrt(torch.abs(normals))
            sizes = [layer.in_features + layer.out_features for layer in self.layers]
            noise = list(torch.split(scaled, sizes))
        streams = [
            self._layer(i + 1, torch.relu(self._layer(i, features, noise)), noise)
            for i in range(0, len(self.layers), 2)
        ]
        advantage = streams[-1].reshape(self.num_actions, self.num_outputs)
        if len(streams) == 1:
            return advantage
        rows = [streams[0] + advantage[a] - sum(advantage) / self.num_actions
                for a in range(self.num_actions)]  # fmt: skip
        return torch.stack(rows)

    def distribution(self, obs: Tensor, normals: Tensor, taus: Tensor) -> Tensor:
        """Values, logits or quantiles [A, K] of one observation [D]."""
        features = torch.relu(self.shared(obs))
        if self.embedding is None:
            return self._outputs(features, normals)
        columns = []
        for tau in taus:
            cosines = [torch.cos(math.pi * i * tau) for i in range(self.embedding.in_features)]
            embedded = torch.relu(self.embedding(torch.stack(cosines)))
            columns.append(self._outputs(features * embedded, normals)[:, 0])
        return torch.stack(columns, dim=1)

    def values(self, obs: Tensor, normals: Tensor) -> Tensor:
        """Values [A] of one observation."""
        agent = self.agent
        taus = torch.empty(0)
        if isinstance(agent, IQNSpec):
            count = agent.num_tau_act
            taus = torch.tensor([(2 * i + 1) / (2 * count) for i in range(count)]).to(obs.dtype)
        outputs = self.distribution(obs, normals, taus)
        if isinstance(agent, C51Spec | HLGaussSpec):
            return torch.stack([sum(row.softmax(0) * grid_of(agent)) for row in outputs])
        return torch.stack([row.mean() for row in outputs])


def grid_of(agent: C51Spec | HLGaussSpec) -> Tensor:
    """The returns that the logits stand for."""
    low, high = float(agent.v_min), float(agent.v_max)
    if isinstance(agent, C51Spec):
        count = agent.num_atoms
        places = [low + i * (high - low) / (count - 1) for i in range(count)]
    else:
        width = (high - low) / agent.num_bins
        places = [low + (i + 0.5) * width for i in range(agent.num_bins)]
    return torch.tensor(places, dtype=torch.float64)


def target_of(agent: AgentSpec, reward: float, discount: float, policy: list[float],
              following: Tensor, value: float) -> Tensor:  # fmt: skip
    """What to predict, of the next state's `following` [A, K] under `policy` [A]."""
    match agent:
        case C51Spec():
            atoms, result = grid_of(agent), torch.zeros(agent.num_atoms).double()
            width = atoms[1] - atoms[0]
            for chance, row in zip(policy, following, strict=True):
                for probability, atom in zip(row.softmax(0), atoms, strict=True):
                    moved = reward + discount * atom.item()
                    moved = min(max(moved, atoms[0].item()), atoms[-1].item())
                    for i, other in enumerate(atoms):  # Bellemare et al. 2017, equation 7
                        nearness = 1 - abs(moved - other.item()) / width.item()
                        result[i] += chance * probability * min(max(nearness, 0.0), 1.0)
            return result
        case HLGaussSpec():
            low, high = float(agent.v_min), float(agent.v_max)
            scale = agent.sigma * (high - low) / agent.num_bins
            mean = min(max(reward + discount * value, low), high)
            edges = np.linspace(low, high, agent.num_bins + 1)
            shares = np.diff(stats.norm.cdf(edges, mean, scale))
            return torch.from_numpy(shares / shares.sum())
        case QRDQNSpec() | IQNSpec():
            mixed = sum(chance * row for chance, row in zip(policy, following, strict=True))
            return reward + discount * torch.as_tensor(mixed)
        case _:
            return torch.tensor(reward + discount * value, dtype=torch.float64)


def loss_of(agent: AgentSpec, prediction: Tensor, taus: Tensor, target: Tensor) -> Tensor:
    """The loss of `prediction` [K]."""
    match agent:
        case C51Spec() | HLGaussSpec():
            return -sum(t * p for t, p in zip(target, prediction.log_softmax(0), strict=True))
        case QRDQNSpec() | IQNSpec():
            total = torch.zeros((), dtype=torch.float64)
            for tau, quantile in zip(taus, prediction, strict=True):
                for sample in target:
                    error = sample - quantile
                    size = error.abs()
                    is_small = size <= agent.kappa
                    huber = 0.5 * error**2 if is_small else agent.kappa * (size - 0.5 * agent.kappa)
                    weight = (tau - float(error < 0)).abs()
                    total = total + weight * huber / agent.kappa / len(target)
            return total
        case DQNSpec():
            error = (target - prediction[0]).abs()
            if agent.loss == "mse":
                return error**2
            return 0.5 * error**2 if error <= 1 else error - 0.5
    raise AssertionError(agent)


class PlainLearner:
    """Two networks, torch's Adam, and an update after the other."""

    def __init__(self, agent: AgentSpec, network: PlainNetwork, target: PlainNetwork, tau: float):
        self.agent, self.online, self.target, self.tau = agent, network, target, tau
        eps = agent.optimizer.hyperparameters()["eps"]
        self.optimizer = torch.optim.Adam(self.online.parameters(), lr=agent.lr, eps=eps)

    def update(self, batch: Batch, weights: Tensor, noise: list[tuple[Tensor, Tensor]]) -> Tensor:
        """One update, with the normal and uniform numbers of the three calls; priorities [B].

        `noise` is of the online, of the target and of the selecting network.
        """
        (normals, uniforms), (target_normals, target_uniforms), (selecting, _) = noise
        losses, priorities = [], []
        size = len(batch.action)
        for b in range(size):
            taus, next_taus = uniforms.reshape(size, -1)[b], target_uniforms.reshape(size, -1)[b]
            with torch.no_grad():
                target = self._target(batch, b, target_normals, next_taus, selecting)
            outputs = self.online.distribution(batch.obs[b], normals, taus)
            prediction = outputs[batch.action[b]]
            if isinstance(self.agent, QRDQNSpec):
                count = self.agent.num_quantiles
                taus = torch.tensor([(2 * i + 1) / (2 * count) for i in range(count)]).double()
            loss = loss_of(self.agent, prediction, taus, target)
            losses.append(weights[b] * loss)
            is_scalar = isinstance(self.agent, DQNSpec)
            priorities.append((target - prediction[0]).abs() if is_scalar else loss)
        self.optimizer.zero_grad()
        (sum(losses) / size).backward()  # type: ignore[union-attr]
        if self.agent.max_grad_norm is not None:
            clip_grad_norm_(self.online.parameters(), self.agent.max_grad_norm)
        self.optimizer.step()
        with torch.no_grad():
            for old, new in zip(self.target.parameters(), self.online.parameters(), strict=True):
                old.copy_((1 - self.tau) * old + self.tau * new)
        return torch.stack(priorities).detach()

    def _target(
        self, batch: Batch, b: int, normals: Tensor, taus: Tensor, selecting: Tensor
    ) -> Tensor:
        agent, next_obs = self.agent, batch.next_obs[b]
        reward, discount = batch.reward[b].item(), batch.discount[b].item()
        values = self.target.values(next_obs, normals)
        policy = [0.0] * len(values)
        if agent.td_target == "munchausen":  # Vieillard et al. 2020, equation 1
            bonus = agent.munchausen
            tau = bonus.temperature
            here = (self.target.values(batch.obs[b], normals) / tau).softmax(0)
            reward += bonus.alpha * max(tau * math.log(here[batch.action[b]].item()), bonus.clip)
            policy = (values / tau).softmax(0).tolist()
            reward -= discount * tau * sum(chance * math.log(chance) for chance in policy)
        elif agent.td_target == "sarsa":
            assert batch.next_action is not None
            policy[int(batch.next_action[b])] = 1.0
        elif agent.double:
            policy[int(self.online.values(next_obs, selecting).argmax())] = 1.0
        else:
            policy[int(values.argmax())] = 1.0
        value = sum(chance * v for chance, v in zip(policy, values.tolist(), strict=True))
        following = self.target.distribution(next_obs, normals, taus)
        return target_of(agent, reward, discount, policy, following, value)

    def params(self) -> Tensor:
        """The online network's parameters [P]."""
        return parameters_to_vector(self.online.parameters()).detach()

    def target_params(self) -> Tensor:
        """The target network's parameters [P]."""
        return parameters_to_vector(self.target.parameters()).detach()


def plain_network(agent: AgentSpec, sizes: tuple[int, int, int, int], params: Tensor, *,
                  dueling: bool, noisy: bool) -> PlainNetwork:  # fmt: skip
    """The network with those `params` [P]."""
    network = PlainNetwork(agent, sizes, dueling=dueling, noisy=noisy).double()
    vector_to_parameters(params.clone(), network.parameters())  # which they are views of
    return network
