"""Labels whose margins are drawn, for the tests of what is judged by them."""

import functools

import numpy as np

from reweight_jax.labels import quality


def classes(label, margin, **more):
    return {"label": np.asarray(label), "margin": np.asarray(margin, float)} | more


judge = functools.partial(quality.judge, task="classification", num_outputs=2)


def drawn(rng, counts, difficulty):
    """Right labels, counts[k] of class k, whose margin is lower by difficulty[k]."""
    label = np.repeat(np.arange(len(counts)), counts)
    return classes(label, 2 + rng.normal(size=len(label)) - np.asarray(difficulty)[label])
