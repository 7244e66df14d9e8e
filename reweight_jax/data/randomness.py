"""Every random draw of the data: one seed, one named stream for each purpose."""

import numpy as np

# Numbers are never reused or changed: a run that is resumed must draw what it drew before.
STREAMS = {
    "long_tail": 0,  # which examples of each class a long tail keeps
    "split_train": 1,
    "split_hyper_val": 2,
    "split_clean": 3,
    "split_calibration": 4,
    "balanced_test": 5,
    "noise_train": 6,
    "noise_hyper_val": 7,
    "train": 8,  # the order of training examples; counter: the epoch
    "clean": 9,  # the order of clean examples; counter: the epoch
    "class_balanced": 10,  # counters: the class and its epoch
    "calibration": 11,  # the order of calibration examples; counter: the epoch
}


def generator(seed: int, stream: str, *counters: int) -> np.random.Generator:
    """Returns the numpy generator of one purpose, independent of those of all others.

    A spawn key, unlike a list of entropy, is not padded with zeros: (8,) and (8, 0) differ.

    Args:
      seed: integer in 0..2^64 - 1.
      stream: a name in STREAMS.
      *counters: integers in 0..2^32 - 1, such as an epoch. A larger one would take two words of the
        key, and could be mistaken for two counters. ValueError if seed or counter is out of range.
    """
    if not 0 <= seed < 1 << 64:
        raise ValueError(f"seed: {seed}; must be in 0..2^64 - 1")
    if not all(0 <= counter < 1 << 32 for counter in counters):
        raise ValueError(f"counters: {counters}; each must be in 0..2^32 - 1")
    key = (STREAMS[stream], *(int(counter) for counter in counters))
    return np.random.default_rng(np.random.SeedSequence(int(seed), spawn_key=key))
