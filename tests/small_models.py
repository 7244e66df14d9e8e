"""Tiny networks and batches for the tests, all in one form: parameters, model state, loss.

What changes between the networks is what the algorithm must not care about: a plain dict of arrays,
flax linen with and without BatchNorm and dropout, flax nnx.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from reweight_jax.models.lenet import LeNet

NUM_CLASSES = 3


class Network(NamedTuple):
    """A network with its first parameters.

    Attributes:
      params: pytree of arrays.
      model_state: batch statistics, or None.
      loss_fn: (model_state, key) -> (params, batch) -> (losses [n], new model state).
      batch: (numpy generator, n) -> a random batch of n examples.
    """

    params: Any
    model_state: Any
    loss_fn: Callable
    batch: Callable


def cast(tree: Any, dtype: Any) -> Any:
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), tree)


# --- Plain dicts of arrays ------------------------------------------------------------------------


def logistic_losses(params, batch):
    """Binary logistic regression: labels 0 or 1, loss log(1 + exp(z)) - y z."""
    z = batch["x"] @ params["kernel"] + params["bias"]
    return jax.nn.softplus(z) - batch["y"] * z, None


def logistic(dtype=np.float32, num_features=5) -> Network:
    rng = np.random.default_rng(0)
    params = {"kernel": rng.normal(size=num_features), "bias": np.asarray(0.3)}

    def batch(rng, n):
        return {
            "x": rng.normal(size=(n, num_features)).astype(dtype),
            "y": rng.integers(2, size=n).astype(dtype),
        }

    return Network(cast(params, dtype), None, lambda model_state, key: logistic_losses, batch)


def mlp_losses(params, batch):
    """Softmax regression on two tanh layers; `params` is a list of (kernel, bias)."""
    x, label = batch
    for kernel, bias in params[:-1]:
        x = jnp.tanh(x @ kernel + bias[None])
    kernel, bias = params[-1]
    logits = x @ kernel + bias[None]
    return optax.softmax_cross_entropy_with_integer_labels(logits, label), None


def mlp(dtype=np.float32, sizes=(6, 5, 4, NUM_CLASSES)) -> Network:
    rng = np.random.default_rng(0)
    params = [
        (rng.normal(size=(i, o)) / np.sqrt(i), 0.1 * rng.normal(size=o))
        for i, o in zip(sizes[:-1], sizes[1:], strict=True)
    ]

    def batch(rng, n):
        x = rng.normal(size=(n, sizes[0])).astype(dtype)
        return x, rng.integers(sizes[-1], size=n).astype(np.int32)

    return Network(cast(params, dtype), None, lambda model_state, key: mlp_losses, batch)


# --- flax linen -----------------------------------------------------------------------------------


class ConvNet(nn.Module):
    """LeNet in small: convolution, overlapping max pooling, ReLU, twice; then two dense layers."""

    @nn.compact
    def __call__(self, x, train):
        del train  # nothing here differs in training
        for features in (4, 8):
            x = nn.Conv(features, (5, 5))(x)
            x = nn.relu(nn.max_pool(x, (3, 3), strides=(2, 2), padding="SAME"))
        x = nn.relu(nn.Dense(16)(x.reshape(x.shape[0], -1)))
        return nn.Dense(NUM_CLASSES)(x)


class ResidualNet(nn.Module):
    """A stem and one residual branch, each a convolution with BatchNorm; dropout in between.

    No bias before a BatchNorm: its gradient is zero but for rounding, which Adam would blow up.
    """

    dropout_rate: float = 0.0
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x, train):
        def conv_norm(x):
            x = nn.Conv(4, (3, 3), use_bias=False)(x)
            return nn.BatchNorm(not train, momentum=0.9, axis_name=self.axis_name)(x)

        x = nn.relu(conv_norm(x))
        y = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        x = nn.relu(x + conv_norm(y))
        return nn.Dense(NUM_CLASSES)(jnp.mean(x, axis=(1, 2)))


def _linen(model, image_shape, dtype, margin=0) -> Network:
    init = jax.jit(functools.partial(model.init, train=False))  # else many small compilations
    variables = init(jax.random.key(0), jnp.zeros((2, *image_shape)))
    variables = cast(variables, dtype)
    params = variables.pop("params")

    def loss_fn(model_state, key):
        def losses(params, batch):
            logits, new_state = model.apply(
                {"params": params, **model_state},
                batch["image"],
                train=True,
                rngs={"dropout": key},
                mutable=list(model_state),
            )
            return optax.softmax_cross_entropy_with_integer_labels(
                logits, batch["label"]
            ), new_state

        return losses

    def batch(rng, n):
        label = rng.integers(NUM_CLASSES, size=n).astype(np.int32)
        image = rng.uniform(size=(n, *image_shape)) + 0.5 * label[:, None, None, None]
        # An empty margin, as in MNIST: max pooling then meets windows that are all ties.
        image *= np.pad(np.ones([s - 2 * margin for s in image_shape[:2]]), margin)[None, ..., None]
        return {"image": image.astype(dtype), "label": label}

    return Network(params, variables, loss_fn, batch)


@functools.cache
def lenet() -> Network:
    """float32 only: that is what the benchmark's LeNet returns."""
    return _linen(LeNet(NUM_CLASSES), (28, 28, 1), np.float32, margin=5)


@functools.cache
def conv_net(dtype=np.float32) -> Network:
    return _linen(ConvNet(), (28, 28, 1), dtype, margin=5)


@functools.cache
def residual_net(dtype=np.float32, dropout_rate=0.2, axis_name=None) -> Network:
    return _linen(ResidualNet(dropout_rate, axis_name), (6, 6, 2), dtype)


# --- flax nnx -------------------------------------------------------------------------------------


class NnxNet(nnx.Module):
    def __init__(self, num_features, rngs):
        self.hidden = nnx.Linear(num_features, 8, use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(8, momentum=0.9, rngs=rngs)
        self.out = nnx.Linear(8, NUM_CLASSES, rngs=rngs)

    def __call__(self, x):
        return self.out(nnx.relu(self.norm(self.hidden(x))))


@functools.cache
def nnx_net(dtype=np.float32, num_features=5) -> Network:
    """An object with state of its own, made a pure function by split and merge."""
    model = NnxNet(num_features, nnx.Rngs(0))
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)

    def loss_fn(model_state, key):
        def losses(params, batch):
            # A copy: the forward pass writes its statistics into the merged model's variables.
            model = nnx.merge(graphdef, params, model_state, copy=True)
            x, label = batch
            values = optax.softmax_cross_entropy_with_integer_labels(model(x), label)
            return values, nnx.split(model, nnx.Param, ...)[2]

        return losses

    def batch(rng, n):
        label = rng.integers(NUM_CLASSES, size=n).astype(np.int32)
        x = rng.normal(size=(n, num_features)) + label[:, None]
        return x.astype(dtype), label

    return Network(cast(params, dtype), cast(rest, dtype), loss_fn, batch)
