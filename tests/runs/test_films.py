"""Films of evaluations, while a run trains."""

from __future__ import annotations

from pathlib import Path

import gymnasium as gym
import imageio.v2 as imageio
import pytest
from gymnasium.envs.classic_control import CartPoleEnv

from dqn_runner.envs import video
from dqn_runner.errors import Stopped
from dqn_runner.runs import films
from dqn_runner.training.evaluation import Evaluator
from dqn_runner.types import Progress


class Undrawable(CartPoleEnv):
    metadata = {"render_modes": ["human"], "render_fps": 50}  # noqa: RUF012


class Failing(CartPoleEnv):
    """As without pygame: it says that it can be drawn."""

    def render(self):
        raise gym.error.DependencyNotInstalled("pygame is not installed")


gym.register("Undrawable-v0", f"{__name__}:Undrawable", max_episode_steps=50)
gym.register("FailingFilm-v0", f"{__name__}:Failing", max_episode_steps=50)


def filmed(run: Path) -> dict[str, int]:
    """The films of a run, and how many frames each has; of each there must be a GIF too."""
    mp4s = sorted((run / "videos").glob("*.mp4"))
    assert {path.name for path in (run / "videos").iterdir()} == {
        name for path in mp4s for name in (path.name, path.with_suffix(".gif").name)
    }
    frames = {}
    for path in mp4s:
        with imageio.get_reader(path) as film:
            frames[path.stem] = film.count_frames()  # type: ignore[attr-defined]
        # Every third of 50 frames a second, without those that equal the one before.
        gif = len(imageio.mimread(path.with_suffix(".gif")))
        assert frames[path.stem] // 4 <= gif <= -(-frames[path.stem] // 3)
    return frames


@pytest.fixture
def first_returns(monkeypatch):
    """The return of the first episode of each evaluation."""
    real, returns = Evaluator.evaluate, []

    def evaluate(self, policy, seeds, *check_stop):
        evaluation = real(self, policy, seeds, *check_stop)
        returns.append(evaluation.returns[0])
        return evaluation

    monkeypatch.setattr(Evaluator, "evaluate", evaluate)
    return returns


@pytest.mark.parametrize(
    ("overrides", "evaluations", "expected"),
    [
        (["eval.video_interval=150"], [100, 200, 300], [200, 300]),
        (["eval.video_interval=1"], [100, 200, 300], [100, 200, 300]),
        (["eval.video_interval=200", "num_envs=8"], [104, 200, 304], [200]),
        (["eval.video_interval=null"], [100, 200, 300], []),
    ],
)
def test_an_evaluation_is_filmed_whenever_the_interval_was_crossed(
    train, first_returns, overrides, evaluations, expected
):
    run = train("run", *overrides)
    lengths = dict(zip(evaluations, first_returns, strict=False))  # a reward of 1 each step
    if not expected:
        assert not (run / "videos").exists()
        return
    assert filmed(run) == {f"eval_{step}": lengths[step] + 1 for step in expected}


def test_a_film_of_a_long_episode_is_cut(train, first_returns, monkeypatch):
    monkeypatch.setattr(films, "MOST_FILMED_STEPS", 6)
    assert set(filmed(train("run", "eval.video_interval=100")).values()) == {7}
    assert min(first_returns) > 6
    run = train("other", "eval.video_interval=100", "eval.max_episode_steps=4")
    assert set(filmed(run).values()) == {5}


@pytest.mark.parametrize(
    ("env", "line"),
    [
        ("Undrawable-v0", "cannot draw itself; it needs render_mode rgb_array"),
        ("FailingFilm-v0", "in render: DependencyNotInstalled: pygame is not installed"),
    ],
)
def test_what_cannot_be_drawn_is_told_of_once_and_the_run_goes_on(train, caplog, env, line):
    run = train("run", f"env.id={env}", "eval.video_interval=1")
    assert (run / "result.json").exists()
    (told,) = [r.getMessage() for r in caplog.records if r.name == "dqn_runner.runs.films"]
    assert told.startswith("eval.video_interval: no films, for ")
    assert told.endswith(line)
    assert not list(run.glob("videos/*"))


def test_films_reach_swanlab_at_their_env_steps(train, records):
    run = train("run", "eval.video_interval=150", "tracker.mode=offline")
    (store,) = run.glob("swanlab/run-*/*.swanlab")
    kept = records(store)
    media = [(r.media.key, r.media.step) for r in kept if r.HasField("media")]
    assert [step for key, step in media if key == "eval/video"] == [200, 300]
    steps = [r.scalar.step for r in kept if r.HasField("scalar") and "eval/" in r.scalar.key]
    assert set(steps) == {100, 200, 300}


def test_the_display_says_what_takes_time(compose, tmp_path):
    seen = []
    progress = Progress(env_steps=10, activity="evaluating")

    def look():
        seen.append(progress.activity)

    config = compose("eval.video_interval=10")
    policy = _Right()
    films.Films(config, tmp_path, progress, None, look).film(policy, 0)  # type: ignore[arg-type]
    assert set(seen) == {"filming"}
    assert progress.activity == "evaluating"


def test_a_signal_that_also_ends_ffmpeg_is_a_stop(compose, tmp_path, monkeypatch, caplog):
    received = []

    def record(*_):
        received.append(15)
        raise OSError("broken pipe")

    def check_stop():
        if received:
            raise Stopped(15)

    monkeypatch.setattr(video, "record_episode", record)
    config, progress = compose("eval.video_interval=10"), Progress(env_steps=10)
    with pytest.raises(Stopped):
        films.Films(config, tmp_path, progress, None, check_stop).film(_Right(), 0)  # type: ignore[arg-type]
    assert caplog.messages == []


class _Right:
    def __call__(self, obs):
        return [1] * len(obs)

    def seeded(self, seeds):
        return self
