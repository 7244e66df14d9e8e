"""Approximate epsilon gradients, against inner products of per-example gradients on a small net."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from reweight_jax import normalize_weights
from reweight_jax.approximate import part_of
from reweight_jax.data.splits import Examples
from reweight_jax.errors import UserError
from reweight_jax.methods import METHODS
from reweight_jax.models.lenet import LeNet
from reweight_jax.train.state import create_optimizer, create_train_state
from reweight_jax.train.step import augmentation, to_float, train_step

MODEL, METHOD = LeNet(3), METHODS["reweight"]
LAST = "Dense_1|Dense_0/bias"


def batches(seed, size):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (size, 8, 8, 1)).astype(np.uint8)
    label = rng.integers(0, 3, size).astype(np.int32)
    rows = np.arange(size)
    return {"image": image, "label": label, "row": rows, "place": rows}


TRAIN, CLEAN = batches(0, 6), [batches(seed, 4) for seed in (1, 2, 3)]


def loss(params, image, label):
    logits = MODEL.apply({"params": params}, to_float(image[None]), train=True)
    return optax.softmax_cross_entropy_with_integer_labels(logits, label[None])[0]


GRADIENTS = jax.jit(jax.vmap(jax.grad(loss), (None, 0, 0)))


def gradients(params, batch, pattern):
    """Each example's gradient [n, P], over the parameters whose path has one of the names."""
    per_example = GRADIENTS(params, batch["image"], batch["label"])
    leaves, _ = jax.tree_util.tree_flatten_with_path(per_example)
    names = pattern.split("|")
    flat = [
        leaf.reshape(len(leaf), -1)
        for path, leaf in leaves
        if any(name in "/".join(key.key for key in path) for name in names)
    ]
    return jnp.concatenate(flat, 1)


def run(num_steps, **settings):
    """The states before each step, and the weights (times n) that each step gave."""
    config = ConfigDict({"momentum": 0.9, "weight_decay": 0.0, "clean_gradient_every": 1})
    config.update({"epsilon_params": "", **settings})
    tx = create_optimizer(config, optax.constant_schedule(0.1))
    train = Examples(TRAIN["image"], TRAIN["label"], TRAIN["label"], TRAIN["row"])
    state = create_train_state(jax.random.key(0), MODEL, tx, METHOD, config, train, 3)
    step = functools.partial(
        train_step,
        model=MODEL,
        method=METHOD,
        tx=tx,
        epsilon_method="jvp",
        epsilon_params=config.epsilon_params,
        augment=augmentation(0, False),
    )
    step = jax.jit(step, static_argnames="fresh")
    states, weights = [], []
    for i in range(num_steps):
        states.append(state)
        fresh = i % config.clean_gradient_every == 0
        state, _ = step(state, TRAIN, CLEAN[i], fresh=fresh)
        weights.append(state.history.last_weight / 6)
    return states, weights


@pytest.mark.parametrize("pattern, names", [(LAST, LAST), ("^model/Conv_[01]/", "Conv_0|Conv_1")])
def test_some_of_the_parameters(pattern, names):
    states, weights = run(2, epsilon_params=pattern)
    for state, clean, actual in zip(states, CLEAN, weights, strict=False):
        params = state.params["model"]
        clean_gradient = gradients(params, clean, names).mean(0)
        products = gradients(params, TRAIN, names) @ clean_gradient
        chex.assert_trees_all_close(actual, normalize_weights(-products), rtol=1e-4, atol=1e-6)
    exact = run(2)[1]
    assert float(jnp.abs(exact[1] - weights[1]).max()) > 1e-3


@pytest.mark.parametrize("pattern, names", [("", "Conv|Dense"), (LAST, LAST)])
def test_an_old_clean_gradient(pattern, names):
    states, weights = run(3, clean_gradient_every=2, epsilon_params=pattern)
    for step, computed_at in ((0, 0), (1, 0), (2, 2)):
        of_clean = states[computed_at].params["model"]
        clean_gradient = gradients(of_clean, CLEAN[computed_at], names).mean(0)
        products = gradients(states[step].params["model"], TRAIN, names) @ clean_gradient
        expected = normalize_weights(-products)
        chex.assert_trees_all_close(weights[step], expected, rtol=1e-4, atol=1e-6)


def test_part_of_puts_others_in_place():
    params = {"a": {"kernel": 1, "bias": 2}, "b": {"kernel": 3}}
    part, join = part_of(params, "kernel$")
    assert part == {"a/kernel": 1, "b/kernel": 3}
    assert join({"a/kernel": 5, "b/kernel": 6}) == {
        "a": {"kernel": 5, "bias": 2},
        "b": {"kernel": 6},
    }
    with pytest.raises(UserError, match="config.epsilon_params: 'x' matches none .*: a/bias"):
        part_of(params, "x")
