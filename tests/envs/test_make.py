"""Environments: episode ends, restarts, seeds and observation encoding, with known values."""

import functools
import importlib.util
import logging
import sys
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple

from dqn_runner.envs.encoding import ObsEncoder, action_decoder, num_actions
from dqn_runner.envs.episode import EpisodePlayer
from dqn_runner.envs.make import (
    EnvSpec,
    image_in_words,
    make_env,
    make_player,
    obs_spec_of,
)
from dqn_runner.envs.vector import Environments
from dqn_runner.errors import ConfigError
from dqn_runner.types import Episode, ObsSpec


class Counting(gym.Env):
    """Observes (episode, steps into it); pays 10 · episode + step; ends after `length` steps."""

    def __init__(self, length=3, ends="terminated"):
        self.observation_space = Box(-1000, 1000, (2,), np.float64)
        self.action_space = Discrete(2)
        self._length, self._ends = length, ends
        self.episode, self.steps = -1, 0
        self.seeds, self.actions = [], []

    def _obs(self):
        return np.array([self.episode, self.steps], np.float64)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seeds.append(seed)
        self.episode, self.steps = self.episode + 1, 0
        return self._obs(), {}

    def step(self, action):
        self.actions.append(action)
        self.steps += 1
        ended = self.steps == self._length
        reward = 10.0 * self.episode + self.steps
        terminated = ended and self._ends in ("terminated", "both")
        truncated = ended and self._ends in ("truncated", "both")
        return self._obs(), reward, terminated, truncated, {}


class Spaces(gym.Env):
    """Has the spaces it is given, and shows the observations it is given, one after the other."""

    def __init__(self, observation_space, action_space=None, observations=()):
        self.observation_space = observation_space
        self.action_space = action_space or Discrete(2)
        self._observations, self._at = observations, 0
        self.actions = []

    def reset(self, *, seed=None, options=None):
        return self._observations[0], {}

    def step(self, action):
        self.actions.append(action)
        self._at += 1
        return self._observations[self._at], 0.0, False, False, {}


def several(envs, stack=1):
    """A factory that hands out players of these one by one."""
    waiting = iter([(env, ObsEncoder(env.observation_space, stack)) for env in envs])

    def make_player(name):
        env, encoder = next(waiting)
        return EpisodePlayer(env, name, encoder=encoder)

    return make_player


@pytest.fixture
def registered():
    """Registers environments under an id for the time of a test."""
    ids = []

    def register(env_id, entry_point):
        gym.register(env_id, entry_point=entry_point)
        ids.append(env_id)

    yield register
    for env_id in ids:
        gym.registry.pop(env_id)


@pytest.mark.parametrize("ends", ["terminated", "truncated", "both"])
def test_every_step_of_several_environments_is_what_counting_predicts(ends):
    """At an end next_obs is the final observation, and the next obs that of the new episode."""
    lengths = [1, 3, 4]
    environments = Environments(
        several([Counting(length, ends) for length in lengths]), 3, np.random.default_rng(0)
    )
    action = [0, 0, 0]
    for t in range(25):
        step = environments.step(action)
        finished = []
        for i, length in enumerate(lengths):
            episode, steps = divmod(t, length)
            ended = steps + 1 == length
            assert step.obs[i].tolist() == [episode, steps]
            assert step.next_obs[i].tolist() == [episode, steps + 1]
            after = [episode + 1, 0] if ended else [episode, steps + 1]
            assert environments.obs[i].tolist() == after
            assert step.reward[i] == 10 * episode + steps + 1
            assert step.terminated[i] == (ended and ends in ("terminated", "both"))
            assert step.truncated[i] == (ended and ends in ("truncated", "both"))
            if ended:
                episode_return = sum(10 * episode + k for k in range(1, length + 1))
                finished.append(Episode(episode_return, length))
        assert step.episodes == finished


def test_what_a_step_returned_does_not_change_later():
    environments = Environments(several([Counting(2), Counting(3)]), 2, np.random.default_rng(0))
    first = environments.step([0, 0])
    kept = [np.array(column) for column in first[:6]]
    for _ in range(10):
        environments.step([1, 1])
    for column, expected in zip(first[:6], kept, strict=True):
        assert np.array_equal(np.asarray(column), expected)


def test_an_environment_that_reuses_its_observation_array_does_no_harm():
    class Reusing(Counting):
        shared = np.zeros(2)

        def _obs(self):
            self.shared[:] = [self.episode, self.steps]
            return self.shared

    environments = Environments(several([Reusing(2)]), 1, np.random.default_rng(0))
    environments.step([0])
    step = environments.step([0])
    assert step.obs.tolist() == [[0, 1]]
    assert step.next_obs.tolist() == [[0, 2]]
    assert environments.obs.tolist() == [[1, 0]]


def test_every_episode_has_a_seed_of_its_own_from_the_given_generator():
    def seeds_after_many_episodes(rng):
        envs = [Counting(length) for length in (1, 2, 5)]
        environments = Environments(several(envs), 3, rng)
        for _ in range(100):
            environments.step([0, 0, 0])
        return [env.seeds for env in envs]

    first = seeds_after_many_episodes(np.random.default_rng(1))
    assert [len(seeds) for seeds in first] == [101, 51, 21]
    flat = [seed for seeds in first for seed in seeds]
    assert None not in flat
    assert len(set(flat)) == len(flat)
    assert seeds_after_many_episodes(np.random.default_rng(1)) == first
    other = seeds_after_many_episodes(np.random.default_rng(2))
    assert not set(flat) & {seed for seeds in other for seed in seeds}


class Recorder(gym.Wrapper):
    """Notes the seed, the actions and the observations of every episode."""

    def __init__(self, env):
        super().__init__(env)
        self.episodes = []

    def reset(self, *, seed=None, options=None):
        obs, info = self.env.reset(seed=seed, options=options)
        self.episodes.append((seed, [], [obs]))
        return obs, info

    def step(self, action):
        result = self.env.step(action)
        _, actions, observations = self.episodes[-1]
        actions.append(action)
        observations.append(result[0])
        return result


def test_every_episode_can_be_replayed_from_its_seed_and_actions():
    envs = [Recorder(gym.make("CartPole-v1")) for _ in range(3)]
    environments = Environments(several(envs), 3, np.random.default_rng(5))
    actions = np.random.default_rng(6)
    for _ in range(150):
        environments.step(actions.integers(2, size=3).tolist())
    replay = gym.make("CartPole-v1")
    for env in envs:
        assert len(env.episodes) > 2
        for seed, taken, observations in env.episodes:
            obs, _ = replay.reset(seed=seed)
            assert np.array_equal(obs, observations[0])
            for action, expected in zip(taken, observations[1:], strict=True):
                assert np.array_equal(replay.step(action)[0], expected)


def test_restarts_touch_no_global_generator():
    np.random.seed(0)
    before = np.random.get_state(legacy=False)["state"]["key"].copy()
    environments = Environments(several([Counting(1)]), 1, np.random.default_rng(0))
    environments.step([0])
    assert np.array_equal(np.random.get_state(legacy=False)["state"]["key"], before)


@pytest.mark.parametrize(
    ("stored_from", "stored_as"),
    [
        (np.uint8, np.uint8),
        (np.bool_, np.bool_),
        (np.float32, np.float32),
        (np.float64, np.float32),
        (np.int32, np.float32),
    ],
)
def test_a_box_keeps_its_shape_and_only_bytes_stay_as_they_are(stored_from, stored_as):
    space = Box(0, 1 if stored_from is np.bool_ else 200, (3, 4, 2), stored_from)
    observations = [space.sample() for _ in range(4)]
    environments = Environments(
        several([Spaces(space, observations=observations)]), 1, np.random.default_rng(0)
    )
    assert environments.obs.shape == (1, 3, 4, 2)
    for t in range(3):
        step = environments.step([0])
        assert step.obs.dtype == step.next_obs.dtype == stored_as
        assert np.array_equal(step.obs[0], observations[t].astype(stored_as))
        assert np.array_equal(step.next_obs[0], observations[t + 1].astype(stored_as))
    encoder = ObsEncoder(space)
    assert encoder.spec == ObsSpec((3, 4, 2), np.dtype(stored_as))
    assert np.array_equal(encoder.batch(observations), np.stack(observations).astype(stored_as))


@pytest.mark.parametrize("start", [0, 3, -2])
def test_discrete_observations_are_one_hot_whatever_they_start_from(start):
    space = Discrete(5, start=start)
    observations = [start, start + 4, start + 2, start + 2]
    environments = Environments(
        several([Spaces(space, observations=observations)]), 1, np.random.default_rng(0)
    )
    identity = np.eye(5, dtype=np.float32)
    for t in range(3):
        step = environments.step([0])
        assert step.obs.dtype == np.float32
        assert np.array_equal(step.obs[0], identity[observations[t] - start])
        assert np.array_equal(step.next_obs[0], identity[observations[t + 1] - start])
    assert np.array_equal(ObsEncoder(space).batch(observations), identity[[0, 4, 2, 2]])


@pytest.mark.parametrize("start", [0, 4, -1])
def test_action_zero_is_the_first_of_the_action_space(start):
    env = Spaces(Discrete(2), Discrete(3, start=start), observations=[0] * 4)
    assert [action_decoder(env)(i) for i in range(3)] == [start, start + 1, start + 2]
    environments = Environments(several([env]), 1, np.random.default_rng(0))
    for action in (0, 2, 1):
        step = environments.step([action])
        assert step.action == [action]
    assert env.actions == [start, start + 2, start + 1]


def test_each_environment_takes_its_own_action():
    envs = [Counting(50) for _ in range(3)]
    environments = Environments(several(envs), 3, np.random.default_rng(0))
    for action in ([0, 1, 0], [1, 1, 0], [0, 0, 1]):
        environments.step(action)
    assert [env.actions for env in envs] == [[0, 1, 0], [1, 1, 0], [0, 0, 1]]


def test_make_env_passes_the_keyword_arguments_on(registered):
    registered("MakeEnvKwargs-v0", Counting)
    env = make_env(EnvSpec(id="MakeEnvKwargs-v0", kwargs={"length": 1, "ends": "truncated"}))
    env.reset(seed=0)
    assert env.step(0)[2:4] == (False, True)


@pytest.mark.parametrize(
    "env_id", ["NoSuchEnv-v0", "CartPole-v99", "no_such_package:Env-v0", "not an id", ""]
)
def test_an_id_that_cannot_be_had_is_named(env_id):
    with pytest.raises(ConfigError) as caught:
        make_env(EnvSpec(id=env_id))
    assert f"env.id={env_id}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_keyword_arguments_that_the_environment_refuses_are_a_config_error():
    with pytest.raises(ConfigError, match=r"env\.id=CartPole-v1.*no_such_argument"):
        make_env(EnvSpec(id="CartPole-v1", kwargs={"no_such_argument": 1}))


def test_continuous_actions_are_refused():
    with pytest.raises(ConfigError, match=r"env\.id=Pendulum-v1.*Box.*Discrete"):
        make_env(EnvSpec(id="Pendulum-v1"))


@pytest.mark.parametrize(
    "space", [Tuple((Discrete(2), Discrete(3))), MultiBinary(4)], ids=["Tuple", "MultiBinary"]
)
def test_observations_that_are_no_box_are_refused(registered, space):
    registered("OddObservations-v0", lambda: Spaces(space))
    with pytest.raises(ConfigError, match=r"env\.id=OddObservations-v0") as caught:
        make_env(EnvSpec(id="OddObservations-v0"))
    assert type(space).__name__ in str(caught.value)


MODULE = """
import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Discrete

class Constant(gym.Env):
    observation_space = Box(0, 9, (1,), np.float32)
    action_space = Discrete(2)
    def reset(self, *, seed=None, options=None):
        return np.full(1, 7, np.float32), {}
    def step(self, action):
        return np.full(1, 8, np.float32), 0.5, True, False, {}

class Scale(gym.ObservationWrapper):
    def __init__(self, env, factor=2.0):
        super().__init__(env)
        self.factor = factor
    def observation(self, observation):
        return observation * np.float32(self.factor)

class Bonus(gym.RewardWrapper):
    def reward(self, reward):
        return reward + 1

class Lacking(gym.Wrapper):
    def __init__(self, env):
        raise gym.error.DependencyNotInstalled("no juggling here, run\\n `pip install juggling`")

class Exiting(gym.Wrapper):
    def __init__(self, env):
        raise SystemExit(0)

class Odd(gym.Wrapper):
    def __init__(self, env):
        raise KeyError("odd")

def nothing(env):
    return None

def exiting():
    raise SystemExit(0)

if "Exiting-v0" not in gym.registry:
    gym.register("Exiting-v0", entry_point=exiting)

if "Constant-v0" not in gym.registry:
    gym.register("Constant-v0", entry_point=Constant)
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module of the user's own on the path; its name."""
    (tmp_path / "envs_of_a_user.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield "envs_of_a_user"
    sys.modules.pop("envs_of_a_user", None)
    gym.registry.pop("Constant-v0", None)
    gym.registry.pop("Exiting-v0", None)


def test_an_id_may_name_the_module_that_registers_it(module):
    env = make_env(EnvSpec(id=f"{module}:Constant-v0"))
    assert env.reset(seed=0)[0].tolist() == [7.0]
    assert env.step(0)[1] == 0.5


def test_wrappers_go_on_in_order_with_and_without_arguments(module):
    """Scaling twice shows that the mapping's argument arrives and that both are applied."""
    spec = EnvSpec(
        id=f"{module}:Constant-v0",
        wrappers=[
            f"{module}:Scale",
            {"name": f"{module}:Scale", "factor": 10.0},
            f"{module}:Bonus",
        ],
    )
    env = make_env(spec)
    assert type(env).__name__ == "Bonus"
    second = env.env  # type: ignore[attr-defined]
    assert (second.factor, second.env.factor) == (10.0, 2.0)
    assert env.reset(seed=0)[0].tolist() == [140.0]
    obs, reward, *_ = env.step(0)
    assert (obs.tolist(), reward) == ([160.0], 1.5)


def test_gymnasiums_own_wrappers_can_be_named():
    spec = EnvSpec(
        id="CartPole-v1",
        wrappers=[{"name": "gymnasium.wrappers:TimeLimit", "max_episode_steps": 2}],
    )
    env = make_env(spec)
    env.reset(seed=0)
    assert env.step(0)[3] is False
    assert env.step(0)[3] is True


@pytest.mark.parametrize(
    "wrapper",
    [
        "no_such_module:Wrapper",
        "gymnasium.wrappers:NoSuchWrapper",
        "not a class",
        {"name": "gymnasium.wrappers:TimeLimit", "no_such_argument": 1},
        {"name": "gymnasium.wrappers:TimeLimit"},
        {"no_name": 1},
    ],
)
def test_a_wrapper_that_cannot_be_had_is_named(wrapper):
    """The key says which of the wrappers, the value what stands there."""
    good = "gymnasium.wrappers:RecordEpisodeStatistics"
    with pytest.raises(ConfigError) as caught:
        make_env(EnvSpec(id="CartPole-v1", wrappers=[good, wrapper]))
    text = str(caught.value)
    value = wrapper if isinstance(wrapper, str) else wrapper.get("name", "no_name")
    assert "env.wrappers[1]=" in text
    assert value in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("name", "saying"),
    [
        ("Lacking", "DependencyNotInstalled: no juggling here, run `pip install juggling`"),
        ("Exiting", "SystemExit: 0"),
        ("Odd", "KeyError: 'odd'"),
        ("nothing", "gives NoneType, no environment"),
    ],
)
def test_a_wrapper_that_cannot_be_made_says_why(module, name, saying):
    with pytest.raises(ConfigError) as caught:
        make_env(EnvSpec(id="CartPole-v1", wrappers=[f"{module}:Scale", f"{module}:{name}"]))
    assert str(caught.value) == f"env.wrappers[1]={module}:{name}: {saying}"


@pytest.mark.skipif(importlib.util.find_spec("cv2") is not None, reason="OpenCV is there")
def test_gymnasiums_own_wrapper_without_its_package_says_what_to_install():
    wrapper = "gymnasium.wrappers:AtariPreprocessing"
    with pytest.raises(ConfigError, match=r"opencv-python.*pip install") as caught:
        make_env(EnvSpec(id="CartPole-v1", wrappers=[wrapper]))
    assert str(caught.value).startswith(f"env.wrappers[0]={wrapper}: DependencyNotInstalled: ")


def test_an_environment_that_exits_when_it_is_made_is_a_config_error(module):
    with pytest.raises(ConfigError, match=r"^env\.id=\w+:Exiting-v0: SystemExit: 0$"):
        make_env(EnvSpec(id=f"{module}:Exiting-v0"))


def test_a_module_that_exits_when_it_is_imported_is_a_config_error(tmp_path, monkeypatch):
    (tmp_path / "exits_at_once.py").write_text("raise SystemExit(0)")
    monkeypatch.syspath_prepend(tmp_path)
    for spec in (
        EnvSpec(id="exits_at_once:Env-v0"),
        EnvSpec(id="CartPole-v1", wrappers=["exits_at_once:Wrapper"]),
    ):
        with pytest.raises(ConfigError, match="SystemExit: 0"):
            make_env(spec)


UNVERSIONED = (
    "env.id=CartPole: Using the latest versioned environment `CartPole-v1` instead of the "
    "unversioned environment `CartPole`."
)


def test_what_gymnasium_warns_of_is_logged_where_it_is_asked_for(caplog, recwarn):
    make_env(EnvSpec(id="CartPole"))
    assert caplog.messages == []
    make_env(EnvSpec(id="CartPole"), warn=True)
    assert caplog.messages == [UNVERSIONED]
    make_env(EnvSpec(id="CartPole-v0"), warn=True)
    assert caplog.messages[1].startswith("env.id=CartPole-v0: The environment CartPole-v0 is out")
    with pytest.raises(ConfigError, match="nosuch"):
        make_env(EnvSpec(id="CartPole", kwargs={"nosuch": 1}), warn=True)
    assert len(caplog.messages) == 2
    assert not [str(w.message) for w in recwarn if "CartPole" in str(w.message)]


def test_other_warnings_are_shown_as_always(registered):
    def make():
        warnings.warn("of my own", stacklevel=1)
        return gym.make("CartPole-v1").unwrapped

    registered("Warning-v0", make)
    with pytest.warns(UserWarning, match="of my own"):
        make_env(EnvSpec(id="Warning-v0"))


@pytest.mark.parametrize(("stack", "num_envs"), [(2, 1), (4, 1), (3, 2)])
def test_a_stack_holds_the_last_observations_of_its_episode(stack, num_envs):
    """By a list of all observations; the first one of an episode fills the whole stack."""
    lengths = [3, 5][:num_envs]
    environments = Environments(
        several([Counting(length) for length in lengths], stack), num_envs,
        np.random.default_rng(0),
    )  # fmt: skip

    def stacks(length, t):
        """Those before and after step `t`."""
        episode, steps = divmod(t, length)
        return [
            [[episode, max(0, at - k)] for k in reversed(range(stack))] for at in (steps, steps + 1)
        ]

    for t in range(17):
        step = environments.step([0] * num_envs)
        for i, length in enumerate(lengths):
            assert [step.obs[i].tolist(), step.next_obs[i].tolist()] == stacks(length, t)


def test_a_stack_is_part_of_what_the_network_sees():
    spec = ObsEncoder(Box(0, 255, (8, 6), np.uint8), 4).spec
    assert spec == ObsSpec((4, 8, 6), np.dtype(np.uint8), 4)
    assert spec.frame_shape == (8, 6)
    with pytest.raises(ValueError, match="frame_stack"):
        EnvSpec(id="CartPole-v1", frame_stack=0)


PARTS = Dict({
    "place": Discrete(3, start=1), "speed": Box(-1, 1, (2,), np.float64),
    "picture": Box(0, 255, (2, 2), np.uint8), "word": MultiBinary(2),
})  # fmt: skip
SEEN = {"place": 2, "speed": np.array([0.5, -1]), "picture": np.full((2, 2), 9), "word": [0, 1]}


@pytest.fixture
def parts(registered):
    registered("Parts-v0", lambda: Spaces(PARTS, observations=[SEEN, SEEN]))
    return lambda *keys: EnvSpec(id="Parts-v0", observation_keys=list(keys) or None)


def test_named_parts_are_joined_in_their_order(parts):
    spec = parts("speed", "place", "picture")
    environments = Environments(functools.partial(make_player, spec), 1, np.random.default_rng(0))
    assert environments.obs.dtype == np.float32
    assert environments.obs.tolist() == [[0.5, -1, 0, 1, 0, 9, 9, 9, 9]]
    assert environments.step([0]).next_obs.tolist() == environments.obs.tolist()


def test_a_single_part_keeps_its_shape_and_type(parts):
    spec = parts("picture")
    assert obs_spec_of(spec, make_env(spec)) == ObsSpec((2, 2), np.dtype(np.uint8))


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ((), "env.id=Parts-v0: its observations are a Dict of picture, place, speed, word; "
         "env.observation_keys=[picture,place,speed] takes them"),
        (("speed", "sped"), "env.observation_keys=[speed,sped]: env.id=Parts-v0 has picture, "
         "place, speed, word, and no sped"),
        (("word",), "env.observation_keys=[word]: word is MultiBinary; must be Box or Discrete"),
    ],
)  # fmt: skip
def test_parts_that_cannot_be_had_are_a_line(parts, keys, line):
    with pytest.raises(ConfigError) as caught:
        make_env(parts(*keys))
    assert sorted(str(caught.value)) == sorted(line)  # Gymnasium orders a Dict by its keys


def test_keys_of_what_has_no_parts_are_a_line():
    with pytest.raises(ConfigError, match=r"^env\.observation_keys=\[a\]: .*no parts; .*Box"):
        make_env(EnvSpec(id="CartPole-v1", observation_keys=["a"]))


def test_actions_of_several_numbers_are_their_combinations(registered):
    space = MultiDiscrete([2, 3], start=[0, 5])
    registered("Several-v0", lambda: Spaces(Discrete(2), space, observations=[0] * 9))
    env = make_env(EnvSpec(id="Several-v0"))
    assert num_actions(env) == 6
    environments = Environments(several([env]), 1, np.random.default_rng(0))
    for action in range(6):
        environments.step([action])
    taken = [action.tolist() for action in env.unwrapped.actions]  # type: ignore[attr-defined]
    assert taken == [[a, b] for a in (0, 1) for b in (5, 6, 7)]


def test_too_many_combinations_are_refused_with_their_number(registered):
    registered("TooMany-v0", lambda: Spaces(Discrete(2), MultiDiscrete([16, 17])))
    with pytest.raises(ConfigError, match=r"MultiDiscrete.* 272 combinations; .* at most 256"):
        make_env(EnvSpec(id="TooMany-v0"))


def image_env(shape, dtype=np.uint8):
    return lambda: Spaces(Box(0, 255 if dtype is np.uint8 else 1, shape, dtype))


@pytest.mark.parametrize(
    ("shape", "dtype", "says"),
    [
        ((64, 60, 3), np.uint8, "image 64x60x3, stored as uint8, scaled to [0, 1] by the network"),
        ((84, 84), np.uint8, "image 84x84, stored as uint8, scaled to [0, 1] by the network"),
        ((10, 10, 4), np.bool_, "image 10x10x4, stored as bool, 0 or 1 in the network"),
        ((8, 8, 3), np.float32, "image 8x8x3, stored as float32"),
        ((8, 8), np.float32, ""),
        ((8,), np.uint8, ""),
    ],
)
def test_an_image_is_recognized(registered, shape, dtype, says):
    registered("Image-v0", image_env(shape, dtype))
    spec = EnvSpec(id="Image-v0")
    assert image_in_words(obs_spec_of(spec, make_env(spec))) == says


def warnings_in(caplog):
    return [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]


def test_a_large_image_is_warned_of_and_the_named_wrapper_helps(registered, caplog):
    registered("LargeImage-v0", image_env((210, 160, 3)))
    wrapper = {"name": "dqn_runner.envs.images:Resize", "size": 84, "gray": True}
    make_env(EnvSpec(id="LargeImage-v0"), warn=True)
    (line,) = warnings_in(caplog)
    assert "env.wrappers=[{name: dqn_runner.envs.images:Resize, size: 84, gray: true}]" in line
    spec = EnvSpec(id="LargeImage-v0", wrappers=[wrapper])
    env = make_env(spec, warn=True)
    assert warnings_in(caplog) == [line]
    assert obs_spec_of(spec, env) == ObsSpec((84, 84), np.dtype(np.uint8))
    image = np.zeros((210, 160, 3), np.uint8)
    image[..., 1] = 200
    assert (env.observation(image) == round(0.587 * 200)).all()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("env_id", "package", "install"),
    [
        ("MinAtar/Breakout-v1", "minatar", "pip install 'dqn_runner[minatar]'"),
        ("minatar:MinAtar/Breakout-v1", "minatar", "pip install 'dqn_runner[minatar]'"),
        ("ALE/Pong-v5", "ale_py", "pip install 'dqn_runner[atari]'"),
        ("MiniGrid-Empty-5x5-v0", "minigrid", "pip install 'dqn_runner[minigrid]'"),
        ("nosuch:Env-v0", "nosuch", "is it installed?"),
    ],
)
def test_a_missing_package_says_what_to_install(monkeypatch, env_id, package, install):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError) as caught:
        make_env(EnvSpec(id=env_id))
    assert str(caught.value) == f"env.id={env_id}: there is no package {package}; {install}"


def test_a_package_may_register_by_a_function(tmp_path, monkeypatch, registered):
    package = tmp_path / "registers_when_asked"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "gym.py").write_text(
        "import gymnasium\n"
        "def register_envs():\n"
        "    gymnasium.register('Asked-v0', 'gymnasium.envs.classic_control:CartPoleEnv')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert make_env(EnvSpec(id="registers_when_asked:Asked-v0")).spec is not None
    make_env(EnvSpec(id="registers_when_asked:Asked-v0"))  # once is enough
    gym.registry.pop("Asked-v0")


def test_a_replay_has_the_same_stacks():
    spec = EnvSpec(id="CartPole-v1", frame_stack=3)

    def environments(seed):
        rng = np.random.default_rng(seed)
        return Environments(functools.partial(make_player, spec), 2, rng)

    ours, other = environments(0), environments(1)
    for t in range(33):
        ours.step([t % 2, 1])
    assert other.set_state(ours.get_state()) == []
    assert np.array_equal(other.obs, ours.obs)
    assert np.array_equal(other.step([0, 1]).next_obs, ours.step([0, 1]).next_obs)
