"""Random streams: all different, all decided by the seed."""

import itertools

import numpy as np

from dqn_runner.seeding import draw_seed, evaluation_stream, random_streams


def numbers(rng, count=64):
    """The stream's next words; two that agree anywhere would be one stream."""
    return rng.integers(2**63, size=count).tolist()


def test_the_streams_of_a_run_differ_among_each_other():
    drawn = [numbers(rng) for rng in random_streams(7)]
    assert len(drawn) == 6
    for one, other in itertools.combinations(drawn, 2):
        assert not set(one) & set(other)


def test_no_two_seeds_share_a_stream():
    """Neither the same stream of neighbouring seeds nor one stream of this and another of that."""
    drawn = [numbers(rng) for seed in range(50) for rng in random_streams(seed)]
    flat = [number for words in drawn for number in words]
    assert len(set(flat)) == len(flat) == 50 * 6 * 64


def test_a_seed_gives_the_same_streams_again():
    for one, again in zip(random_streams(3), random_streams(3), strict=True):
        assert numbers(one) == numbers(again)


def test_each_stream_keeps_the_key_that_it_is_spawned_by():
    """Else runs of older versions could not be repeated; 5 is the evaluation afterwards."""
    keys = {"env": 0, "evaluation": 1, "exploration": 2, "replay": 3, "network": 4, "noise": 6}
    streams = random_streams(9)._asdict()
    assert streams.keys() == keys.keys()
    for name, key in keys.items():
        expected = np.random.default_rng(np.random.SeedSequence(9, spawn_key=(key,)))
        assert numbers(streams[name]) == numbers(expected)


def test_seed_zero_is_a_seed():
    first, second = random_streams(0), random_streams(0)
    for one, again in zip(first, second, strict=True):
        assert numbers(one) == numbers(again)
    assert numbers(evaluation_stream(0)) == numbers(evaluation_stream(0))
    assert numbers(random_streams(0).env) != numbers(random_streams(1).env)


def test_drawing_from_one_stream_leaves_the_others_as_they_were():
    untouched, used = random_streams(11), random_streams(11)
    numbers(used.evaluation, 10_000)
    for name in ("env", "exploration", "replay", "network", "noise"):
        assert numbers(getattr(used, name)) == numbers(getattr(untouched, name))


def test_the_evaluation_after_training_shares_no_stream_with_any_training():
    training = {word for seed in range(50) for rng in random_streams(seed) for word in numbers(rng)}
    evaluation = [word for seed in range(50) for word in numbers(evaluation_stream(seed))]
    assert len(set(evaluation)) == len(evaluation)
    assert not training & set(evaluation)


def test_streams_do_not_depend_on_numpys_global_generator():
    np.random.seed(0)
    state_before = np.random.get_state(legacy=False)["state"]["key"].copy()
    first = numbers(random_streams(5).env)
    np.random.seed(1)
    assert numbers(random_streams(5).env) == first
    np.random.seed(0)
    draw_seed(random_streams(5).env)
    assert np.array_equal(np.random.get_state(legacy=False)["state"]["key"], state_before)


def test_drawn_seeds_cover_31_bits():
    rng = np.random.default_rng(0)
    seeds = [draw_seed(rng) for _ in range(20_000)]
    assert all(type(seed) is int for seed in seeds)
    assert 0 <= min(seeds) < 2**20
    assert 2**31 - 2**20 < max(seeds) < 2**31
    # Of 20 000 draws some 0.1 pair coincides by chance.
    assert len(set(seeds)) > 19_990
