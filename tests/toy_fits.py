"""Small fits on toy data, for the tests of `fit` and of what it returns."""

import functools

import jax
import numpy as np

from reweight_jax import fit

ONE = jax.devices()[:1]
QUIET = {"progress": False, "plots": False}
# One phase, as in the paper, and so one program to compile; `fit` by itself has up to four.
PAPERS = {"warm_up": 0.0, "settle_at": 1.0, "judge_for": 0.0}
SMALL = QUIET | PAPERS | {"batch_size": 20, "model_fields": {"hidden": (8,)}}
PLAIN = {"method": "baseline"}  # where what is under test does not depend on it


@functools.cache
def toy():
    """Two classes that a line separates: (x, labels of which 3 in 10 are wrong, which), clean."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 2)) * [1, 50] + [3, -70]
    clean_x = rng.normal(size=(30, 2)) * [1, 50] + [3, -70]
    right, wrong = (x[:, 0] > 3).astype(int), rng.random(200) < 0.3
    return (x, np.where(wrong, 1 - right, right), wrong), (clean_x, (clean_x[:, 0] > 3).astype(int))


def quick(model=None, train=None, **fields):
    """`fit` on one device, on the toy data if no other is given."""
    if train is None:
        (x, y, _), fields["clean"] = toy()[0], fields.get("clean", toy()[1])
        train = (x, y)
    return fit(model, train, devices=ONE, **SMALL | {"num_steps": 3} | fields)
