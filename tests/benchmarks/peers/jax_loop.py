"""A whole DQN run as one jitted JAX program (CartPole written in JAX); prints env steps/s.

With a fourth argument, so many runs in one program, by jax.vmap over their seeds.
"""

import os
import sys
import time

os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"

import jax
import jax.numpy as jnp

env_id, warmup, steps = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
num_runs = int(sys.argv[4]) if len(sys.argv) > 4 else None
assert env_id == "CartPole-v1", "this peer knows CartPole-v1 alone"

CAPACITY, BATCH, GAMMA, LR = 10_000, 64, 0.99, 1e-3
WIDTHS = (4, 64, 64, 2)


def reset(key):
    return jax.random.uniform(key, (4,), minval=-0.05, maxval=0.05)


def cartpole(state, action):
    """The dynamics of Gymnasium's CartPole-v1 (Barto, Sutton and Anderson 1983)."""
    _, x_dot, theta, theta_dot = state
    force = jnp.where(action == 1, 10.0, -10.0)
    cos, sin = jnp.cos(theta), jnp.sin(theta)
    pull = (force + 0.05 * theta_dot**2 * sin) / 1.1
    theta_acc = (9.8 * sin - cos * pull) / (0.5 * (4.0 / 3.0 - 0.1 * cos**2 / 1.1))
    x_acc = pull - 0.05 * theta_acc * cos / 1.1
    change = jnp.array([x_dot, x_acc, theta_dot, theta_acc])
    state = state + 0.02 * change
    fallen = (jnp.abs(state[0]) > 2.4) | (jnp.abs(state[2]) > 12 * 2 * jnp.pi / 360)
    return state, fallen


def initial_params(key):
    keys = jax.random.split(key, len(WIDTHS) - 1)
    return [
        (jax.random.uniform(k, (m, n), minval=-(m**-0.5), maxval=m**-0.5), jnp.zeros(n))
        for k, m, n in zip(keys, WIDTHS, WIDTHS[1:], strict=False)
    ]


def q_values(params, obs):
    for weight, bias in params[:-1]:
        obs = jax.nn.relu(obs @ weight + bias)
    return obs @ params[-1][0] + params[-1][1]


def update(params, target, moments, count, batch):
    obs, action, reward, discount, next_obs = batch

    def loss(p):
        y = reward + discount * q_values(target, next_obs).max(1)
        q = jnp.take_along_axis(q_values(p, obs), action[:, None], 1)[:, 0]
        error = jnp.abs(q - jax.lax.stop_gradient(y))
        return jnp.where(error < 1, 0.5 * error**2, error - 0.5).mean()

    grads = jax.grad(loss)(params)
    norm = jnp.sqrt(sum((g**2).sum() for g in jax.tree.leaves(grads)))
    grads = jax.tree.map(lambda g: g * jnp.minimum(1.0, 10 / (norm + 1e-6)), grads)
    first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, moments[0], grads)
    second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g**2, moments[1], grads)
    bias1, bias2 = 1 - 0.9**count, 1 - 0.999**count
    params = jax.tree.map(
        lambda p, m, v: p - LR * (m / bias1) / (jnp.sqrt(v / bias2) + 1e-8), params, first, second
    )
    return params, (first, second)


def step(carry, t):
    params, target, moments, storage, state, age, key = carry
    key, k_coin, k_action, k_batch, k_reset = jax.random.split(key, 5)
    greedy = q_values(params, state).argmax()
    action = jnp.where(
        jax.random.uniform(k_coin) < 0.05, jax.random.randint(k_action, (), 0, 2), greedy
    )
    next_state, fallen = cartpole(state, action)
    row = (state, action, 1.0, GAMMA * (1.0 - fallen), next_state)
    storage = tuple(c.at[t % CAPACITY].set(v) for c, v in zip(storage, row, strict=True))
    ended = fallen | (age >= 499)
    state = jnp.where(ended, reset(k_reset), next_state)
    indices = jax.random.randint(k_batch, (BATCH,), 0, jnp.minimum(t + 1, CAPACITY))
    batch = tuple(column[indices] for column in storage)
    params, moments = update(params, target, moments, t + 1.0, batch)
    target = jax.tree.map(lambda o, q: jnp.where(t % 500 == 0, o, q), params, target)
    return (params, target, moments, storage, state, jnp.where(ended, 0, age + 1), key), None


def beginning(key):
    """The carry of a run before its first step."""
    params = initial_params(key)
    # Donated memory may not be shared: each of these is a copy of its own.
    target = jax.tree.map(jnp.copy, params)
    moments = tuple(jax.tree.map(jnp.zeros_like, params) for _ in range(2))
    storage = (
        jnp.zeros((CAPACITY, 4)),
        jnp.zeros(CAPACITY, jnp.int32),
        jnp.zeros(CAPACITY),
        jnp.zeros(CAPACITY),
        jnp.zeros((CAPACITY, 4)),
    )
    return params, target, moments, storage, reset(key), jnp.array(0), key


def main():
    key = jax.random.PRNGKey(0)
    take_step = step
    carry = beginning(key)
    if num_runs:
        carry = jax.vmap(beginning)(jax.random.split(key, num_runs))
        take_step = jax.vmap(step, in_axes=(0, None))
    run = jax.jit(lambda c, ts: jax.lax.scan(take_step, c, ts)[0], donate_argnums=0)
    # Steps of one length, so that the second call needs no compilation.
    carry = jax.block_until_ready(run(carry, jnp.arange(steps)))
    started = time.perf_counter()
    jax.block_until_ready(run(carry, jnp.arange(steps, 2 * steps)))
    return (num_runs or 1) * steps / (time.perf_counter() - started)


print(main())
