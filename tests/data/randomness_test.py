"""Named streams: no two (stream, counters) share a generator, trailing zeros included."""

import itertools

import numpy as np
import pytest

from reweight_jax.data.randomness import STREAMS, generator


def first_draw(*arguments):
    return tuple(generator(*arguments).integers(0, 1 << 63, 2).tolist())


def test_no_two_streams_or_counters_share_their_draws():
    numbers = (0, 1, 2, 255, (1 << 32) - 1)
    counters = [c for n in range(4) for c in itertools.product(numbers, repeat=n)]
    keys = [(seed, name, *c) for seed in (0, 1, 7) for name in STREAMS for c in counters]
    draws = {first_draw(*key) for key in keys}
    assert len(draws) == len(keys) == 3 * len(STREAMS) * (1 + 5 + 25 + 125)
    # A list of entropy pads with zeros: what these streams replace.
    assert np.random.default_rng([3, 0]).random() == np.random.default_rng([3, 0, 0]).random()


def test_numbers_of_streams_are_distinct_words():
    assert len(set(STREAMS.values())) == len(STREAMS)
    assert all(0 <= number < 1 << 32 for number in STREAMS.values())


def test_a_stream_is_repeated_and_is_that_of_its_spawn_key():
    assert first_draw(5, "train", 2) == first_draw(5, "train", 2)
    assert first_draw(np.int64(5), "train", np.int32(2)) == first_draw(5, "train", 2)
    sequence = np.random.SeedSequence(5, spawn_key=(STREAMS["train"], 2))
    expected = np.random.default_rng(sequence).integers(0, 1 << 63, 2)
    assert first_draw(5, "train", 2) == tuple(expected.tolist())


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((-1, "train"), "^seed: -1; must be in"),
        ((1 << 64, "train"), "^seed: "),
        ((0, "train", -1), r"^counters: \(-1,\); each must"),
        # Two words: without the check, the draws of counters (0, 1).
        ((0, "train", 1 << 32), "^counters: "),
    ],
)
def test_values_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        generator(*arguments)
    with pytest.raises(KeyError):
        generator(0, "no such stream")
