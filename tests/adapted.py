"""A user's linen and nnx networks, with BatchNorm and dropout, for the tests of `as_model`."""

import flax.linen as nn
import jax
import numpy as np
import pytest
from flax import nnx

from reweight_jax.models import as_model

NUM_FEATURES, K = 5, 3


class LinenNet(nn.Module):
    """BatchNorm and both ways to call dropout; `norm` is an attribute, shared with the caller."""

    norm: nn.Module | None = None
    rate: float = 0.4

    @nn.compact
    def __call__(self, x, train):
        x = nn.Dense(8)(x)
        x = nn.BatchNorm(not train, momentum=0.9)(x)
        x = nn.Dropout(self.rate, deterministic=not train)(nn.relu(x))
        x = nn.Dropout(self.rate)(nn.Dense(6)(x), deterministic=not train)
        return nn.Dense(K)(x)


class LinenSetupNet(nn.Module):
    """Layers that are made outside and in setup, and a flag of the other sense."""

    norm: nn.Module

    def setup(self):
        self.dense, self.out = nn.Dense(8), nn.Dense(K)
        self.dropout = nn.Dropout(0.4)

    def __call__(self, x, *, deterministic=True):
        x = self.norm(self.dense(x), use_running_average=deterministic)
        return self.out(self.dropout(x, deterministic=deterministic))


class NnxNet(nnx.Module):
    """A list of layers, BatchNorm, dropout, and streams of random numbers of its own."""

    def __init__(self, rngs, rate=0.4):
        self.layers = nnx.List(
            [nnx.Linear(NUM_FEATURES, 8, rngs=rngs), nnx.Linear(8, 8, rngs=rngs)]
        )
        self.norm = nnx.BatchNorm(8, momentum=0.9, rngs=rngs)
        self.dropout = nnx.Dropout(rate, rngs=rngs)
        self.out = nnx.Linear(8, K, rngs=rngs)
        self.rngs = rngs

    def __call__(self, x):
        for layer in self.layers:
            x = nnx.relu(layer(x))
        return self.out(self.dropout(self.norm(x)))


NETS = {
    "linen": LinenNet,
    "linen_setup": lambda: LinenSetupNet(nn.BatchNorm(momentum=0.9)),
    "nnx": lambda: NnxNet(nnx.Rngs(0)),
}


all_nets = pytest.mark.parametrize("net", NETS)


def features(n=8, seed=0):
    """The examples differ in scale: the statistics of a part of the batch are others."""
    x = np.random.default_rng(seed).normal(size=(n, NUM_FEATURES)).astype(np.float32)
    return x * np.linspace(0.2, 3, n, dtype=np.float32)[:, None]


def start(net, **settings):
    model = as_model(NETS[net](), num_outputs=K, **settings)
    return model, *model.init(jax.random.key(0), features())


def arrays_of(module):
    return jax.tree.map(np.array, nnx.state(module, nnx.Not(nnx.RngState)))
