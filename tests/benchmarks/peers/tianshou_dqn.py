"""Tianshou's DQN on the benchmark's work; prints env steps per second."""

import sys
import time

import gymnasium as gym
import torch
from tianshou.algorithm import DQN
from tianshou.algorithm.modelfree.dqn import DiscreteQLearningPolicy
from tianshou.algorithm.optim import AdamOptimizerFactory
from tianshou.data import Collector, VectorReplayBuffer
from tianshou.env import DummyVectorEnv
from tianshou.trainer import OffPolicyTrainerParams
from tianshou.utils.net.common import Net

env_id, warmup, steps = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(1)

env = gym.make(env_id)
assert isinstance(env.action_space, gym.spaces.Discrete)
net = Net(
    state_shape=env.observation_space.shape,
    action_shape=env.action_space.n,
    hidden_sizes=[64, 64],
)
policy = DiscreteQLearningPolicy(
    model=net, action_space=env.action_space, eps_training=0.05, eps_inference=0.0
)
algorithm = DQN(
    policy=policy,
    optim=AdamOptimizerFactory(lr=1e-3),
    target_update_freq=500,
    is_double=False,
    huber_loss_delta=1.0,
)
collector = Collector(
    algorithm, DummyVectorEnv([lambda: gym.make(env_id)]), VectorReplayBuffer(10_000, 1)
)


def train(num_steps: int) -> float:
    started = time.perf_counter()
    algorithm.run_training(
        OffPolicyTrainerParams(
            training_collector=collector,
            test_collector=None,
            max_epochs=1,
            epoch_num_steps=num_steps,
            collection_step_num_env_steps=1,
            update_step_num_gradient_steps_per_sample=1.0,
            batch_size=64,
            show_progress=False,
            verbose=False,
        )
    )
    return time.perf_counter() - started


collector.reset()
collector.collect(n_step=100, random=True)
train(warmup)
print(steps / train(steps))
