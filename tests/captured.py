"""Built-in networks whose layers' outputs are captured, and a convolution in numpy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from configs import default
from reweight_jax.models import DTYPES, MODELS

EPSILON = 1e-5  # what Flax's BatchNorm adds to a variance


def model_config(name, **fields):
    config = default.get_config().model
    config.update({"name": name, **fields})
    return config


def build(name, depth=32, width=1, dropout=0.0, dtype="float32", num_outputs=10, on_cpu=False):
    """The linen module, whose layers' outputs can be captured."""
    config = model_config(name, depth=depth, width=width, dropout=dropout)
    return MODELS[name](config, num_outputs, DTYPES[dtype], on_cpu)


def shapes(model, shape=(2, 32, 32, 3), train=False):
    """(logits, variables) as shapes and dtypes: nothing is computed, however large the model."""

    def run(key, x):
        logits, variables = model.init_with_output(
            {"params": key, "dropout": key}, x, train=train, capture_intermediates=True
        )
        return logits, variables

    return jax.eval_shape(run, jax.random.key(0), jnp.zeros(shape))


def size(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@functools.cache  # the small models of these tests are initialised once
def start(model, shape):
    return jax.jit(functools.partial(model.init, train=False))(jax.random.key(0), jnp.zeros(shape))


@functools.cache
def compiled(model, train):
    """apply(variables, x, dropout key or None) -> (logits, new batch_stats and intermediates)."""

    @jax.jit
    def apply(variables, x, key=None):
        return model.apply(
            variables,
            x,
            train=train,
            rngs=None if key is None else {"dropout": key},
            mutable=["batch_stats", "intermediates"],
            capture_intermediates=True,
        )

    return apply


def images(n, shape, seed=0):
    """Floats in 0..1, the first of them darker: the halves of a batch differ in mean."""
    x = np.random.default_rng(seed).uniform(size=(n, *shape)).astype(np.float32)
    return x * np.linspace(0.2, 1, n, dtype=np.float32).reshape(n, 1, 1, 1)


def outputs_of(new):
    """Layer name -> what it gave, from what `compiled` returns as new."""
    layers = {name: seen for name, seen in new["intermediates"].items() if name != "__call__"}
    return {name: np.asarray(seen["__call__"][0]) for name, seen in layers.items()}


def conv3x3(x, kernel):
    """3x3 convolution with stride 1 and zeros around, as nine products."""
    height, width = x.shape[1:3]
    padded = np.pad(np.float64(x), [(0, 0), (1, 1), (1, 1), (0, 0)])
    return sum(
        padded[:, i : i + height, j : j + width] @ np.float64(kernel[i, j])
        for i in range(3)
        for j in range(3)
    )
