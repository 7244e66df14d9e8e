"""`layerwise` against forward mode, and what it refuses."""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small_models
from by_hand import batches, jitted, step_from_params
from flax import nnx

from reweight_jax import epsilon_gradient
from reweight_jax.layerwise import layerwise
from reweight_jax.models import as_model
from reweight_jax.models.transformer import Transformer


class Shared(nn.Module):
    """An embedding that is also the output layer, a layer that is used twice, and dropout."""

    @nn.compact
    def __call__(self, tokens, train=False):
        embed = nn.Embed(7, 6, name="embed")
        x = nn.LayerNorm()(jnp.mean(embed(tokens), axis=1))
        layer = nn.Dense(6, name="layer")
        x = nn.Dropout(0.3, deterministic=not train)(jnp.tanh(layer(x)))
        return embed.attend(layer(x))


def tokens_of(module, dtype):
    """A `small_models.Network` on tokens."""

    def batch(rng, n):
        tokens = rng.integers(1, 7, (n, 5)).astype(np.int32)
        return tokens, (tokens[:, 0] % 3).astype(np.int32)

    def loss_fn(_, key):
        def losses(params, batch):
            options = {"train": True, "rngs": {"dropout": key}}
            logits = module.apply({"params": params}, batch[0], **options)
            return optax.softmax_cross_entropy_with_integer_labels(logits, batch[1]), None

        return losses

    variables = module.init(jax.random.key(0), batch(np.random.default_rng(0), 1)[0])
    params = small_models.cast(variables["params"], dtype)
    return small_models.Network(params, None, loss_fn, batch)


def transformer(dtype):
    return tokens_of(Transformer(3, 7, 1, 2, 8, dropout=0.2, dtype=dtype), dtype)


@pytest.mark.parametrize(
    ("make", "tolerance"),
    [
        (small_models.conv_net, 1e-9),
        (lambda dtype: tokens_of(Shared(), dtype), 1e-9),
        (transformer, 1e-4),  # its outputs are float32
    ],
)
def test_a_step_is_that_of_forward_mode(x64, make, tolerance):
    network = make(np.float64)
    batch, clean = batches(network, 9, 5)
    loss_fn = network.loss_fn(network.model_state or {}, jax.random.key(1))
    jvp, ours = (
        jitted(step_from_params, loss_fn, method=method)(network.params, batch, clean)
        for method in ("jvp", "layerwise")
    )
    assert jnp.max(jvp[1]["weights"]) > 0
    chex.assert_trees_all_close(ours, jvp, rtol=tolerance, atol=1e-3 * tolerance)


def test_over_some_parameters(x64):
    network = small_models.conv_net(np.float64)
    batch, clean = batches(network, 9, 5)
    loss_fn = network.loss_fn(network.model_state, jax.random.key(0))
    jvp, ours = (
        jitted(epsilon_gradient, loss_fn, method=method, over="Conv_1/bias|Dense")(
            network.params, batch, clean
        )
        for method in ("jvp", "layerwise")
    )
    chex.assert_trees_all_close(ours, jvp, rtol=1e-9)


def test_four_devices_are_one(x64):
    network = small_models.conv_net(np.float64)
    batch, clean = batches(network, 8, 4)
    loss_fn = network.loss_fn(network.model_state, jax.random.key(0))
    options = {"method": "layerwise", "lookahead_lr": 0.5}
    one = jitted(epsilon_gradient, loss_fn, **options)(network.params, batch, clean)
    split = functools.partial(jax.tree.map, lambda x: x.reshape(4, -1, *x.shape[1:]))
    four = jax.pmap(
        functools.partial(epsilon_gradient, loss_fn, axis_name="batch", **options),
        axis_name="batch",
        in_axes=(None, 0, 0),
    )(network.params, split(batch), split(clean))
    chex.assert_trees_all_close(four.reshape(-1), one, rtol=1e-9)


def test_a_row_that_is_not_finite_is_left_out():
    network = small_models.conv_net()
    batch, clean = batches(network, 9, 5)
    batch["image"][3] = np.nan
    loss_fn = network.loss_fn(network.model_state, jax.random.key(0))
    _, jvp = jitted(step_from_params, loss_fn, method="jvp")(network.params, batch, clean)
    state, ours = jitted(step_from_params, loss_fn, method="layerwise")(
        network.params, batch, clean
    )
    assert ours["weights"][3] == 0
    chex.assert_trees_all_close(ours["weights"], jvp["weights"], rtol=1e-4, atol=1e-6)
    chex.assert_tree_all_finite(state.params)


def test_it_takes_fewer_operations():
    network = small_models.conv_net()
    batch, clean = batches(network, 50, 5)
    loss_fn = network.loss_fn(network.model_state, jax.random.key(0))

    def flops(method):
        step = jitted(step_from_params, loss_fn, method=method)
        return step.lower(network.params, batch, clean).compile().cost_analysis()["flops"]

    assert flops("layerwise") < 0.9 * flops("jvp")  # 0.89; pooling counts for much here


class Mixed(nn.Module):
    """A parameter beside other modules."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(2)(x) + self.param("shift", nn.initializers.ones, (1, 2))


class Flattened(nn.Module):
    """A layer that sees twice as many rows as there are examples."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(1)(x.reshape(-1, 2)).reshape(len(x), 2)


class Normalized(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        return nn.BatchNorm(not train)(nn.Dense(2)(x))


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Mixed(), "layerwise: shift: not in a linen module of its own; use 'jvp'"),
        (Flattened(), r"layerwise: Dense returns \[6, 1\], which does not begin with the 3 ex"),
        (Normalized(), "layerwise: BatchNorm couples the examples; use 'jvp'"),
        (nnx.Linear(4, 2, rngs=nnx.Rngs(0)), "layerwise: bias, kernel: not in a linen module"),
    ],
)
def test_what_it_is_not_for_is_an_error(module, message):
    model, x = as_model(module), jnp.ones((3, 4))
    params, model_state = model.init(jax.random.key(0), x)

    def loss_fn(params, x):
        outputs, _ = model.apply(params, model_state, x, train=True, key=jax.random.key(0))
        return jnp.sum(outputs, axis=1), None

    with pytest.raises(ValueError, match=message):
        layerwise(loss_fn, params, x)


def test_losses_are_one_for_each_example():
    params = {"kernel": jnp.ones((4, 2)), "bias": jnp.ones(2)}

    def loss_fn(params, x):
        return jnp.mean(nn.Dense(2).apply({"params": params}, x)), None

    with pytest.raises(ValueError, match=r"one loss per example, shape \[n\]; it returned \(\)"):
        epsilon_gradient(loss_fn, params, jnp.ones((3, 4)), jnp.ones((3, 4)), method="layerwise")
