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
from toy_fits import QUIET

from reweight_jax import (
    ReweightState,
    apply_weights,
    epsilon_gradient,
    fit,
    linearize_losses,
    normalize_weights,
)
from reweight_jax.layerwise import layerwise, verify
from reweight_jax.models import as_model
from reweight_jax.models.transformer import Transformer

X = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)


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

    init = jax.jit(module.init)  # else many small compilations
    variables = init(jax.random.key(0), batch(np.random.default_rng(0), 1)[0])
    params = small_models.cast(variables["params"], dtype)
    return small_models.Network(params, None, loss_fn, batch)


def transformer(dtype):
    return tokens_of(Transformer(3, 7, 1, 2, 8, dropout=0.2, dtype=dtype), dtype)


def derivatives(linearize, loss_fn, params, batch, tangent):
    """Losses, inner products with `tangent`, and the gradient of a weighted sum."""
    found = linearize(loss_fn, params, batch)
    return (
        found.losses,
        found.jvp(tangent),
        found.vjp(jnp.linspace(0.1, 1, len(found.losses), dtype=found.losses.dtype)),
    )


@pytest.mark.parametrize(
    ("make", "tolerance"),
    [
        (small_models.conv_net, 1e-9),
        (lambda dtype: tokens_of(Shared(), dtype), 1e-9),
        pytest.param(transformer, 1e-4, marks=pytest.mark.slow),  # its outputs are float32
    ],
)
def test_it_is_forward_mode(x64, make, tolerance):
    network = make(np.float64)
    batch, clean = batches(network, 9, 5)
    loss_fn = network.loss_fn(network.model_state or {}, jax.random.key(1))
    tangent = jax.grad(lambda p: jnp.mean(loss_fn(p, clean)[0]))(network.params)
    expected, got = (
        jax.jit(functools.partial(derivatives, linearize, loss_fn))(network.params, batch, tangent)
        for linearize in (linearize_losses, layerwise)
    )
    chex.assert_trees_all_close(got, expected, rtol=tolerance, atol=1e-3 * tolerance)
    verify(loss_fn, network.params, batch)


def test_rounding_is_not_taken_for_an_error():
    """The bias of the keys has no gradient but rounding."""
    network = tokens_of(Transformer(3, 7, 1, 4, 64, dtype=jnp.bfloat16), np.float32)
    batch, _ = batches(network, 7, 1)
    verify(network.loss_fn({}, jax.random.key(0)), network.params, batch)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.float32])
def test_verify_takes_parameters_of_several_types_and_none(dtype):
    params = {"kernel": jnp.ones((4, 2), dtype), "bias": jnp.ones(2)}
    verify(lambda params, x: (nn.Dense(2).apply({"params": params}, x)[:, 0], None), params, X)
    verify(lambda params, x: (jnp.sum(x, axis=1), None), {}, X)


def test_a_step_of_ones_own(x64):
    """As docs/algorithm.md says; on four devices as on one."""
    network, tx = small_models.conv_net(np.float64), optax.sgd(0.1)
    batch, clean = batches(network, 8, 4)
    loss_fn = network.loss_fn(network.model_state, jax.random.key(0))

    def step(params, batch, clean, axis_name=None):
        linearized = layerwise(loss_fn, params, batch)
        options = {"method": "jvp", "axis_name": axis_name, "linearized": linearized}
        gradient = epsilon_gradient(loss_fn, params, batch, clean, **options)
        weights = normalize_weights(gradient, axis_name=axis_name)
        state = ReweightState(params, tx.init(params))
        state, _ = apply_weights(state, linearized, weights, tx=tx, axis_name=axis_name)
        return state.params, weights

    params, weights = jax.jit(step)(network.params, batch, clean)
    expected, metrics = jitted(step_from_params, loss_fn, tx=tx, method="jvp")(
        network.params, batch, clean
    )
    chex.assert_trees_all_close((params, weights), (expected.params, metrics["weights"]), rtol=1e-9)
    split = functools.partial(jax.tree.map, lambda x: x.reshape(4, -1, *x.shape[1:]))
    four = jax.pmap(
        functools.partial(step, axis_name="batch"), axis_name="batch", in_axes=(None, 0, 0)
    )(network.params, split(batch), split(clean))
    chex.assert_trees_all_close(four[1].reshape(-1), weights, rtol=1e-9)
    chex.assert_trees_all_close(jax.tree.map(lambda x: x[3], four[0]), params, rtol=1e-9)


def test_a_run_has_the_weights_of_forward_mode():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 4)).astype(np.float32)
    label = (x[:, 0] > 0).astype(int)
    options = QUIET | {"clean": (x[:10], label[:10]), "num_steps": 20}  # in several phases
    options |= {"batch_size": 20, "model_fields": {"hidden": (8,)}}
    jvp, got = (
        fit(None, (x[10:], label[10:]), epsilon_method=method, **options).examples["weight"]
        for method in ("jvp", "layerwise")
    )
    assert np.ptp(jvp) > 0.1
    np.testing.assert_allclose(got, jvp, rtol=1e-3, atol=1e-5)


def test_it_takes_fewer_operations():
    network = tokens_of(Transformer(3, 7, 1, 2, 64), np.float32)
    batch, _ = batches(network, 50, 5)
    loss_fn = network.loss_fn({}, jax.random.key(0))

    def flops(linearize):
        program = jax.jit(functools.partial(derivatives, linearize, loss_fn))
        compiled = program.lower(network.params, batch, network.params).compile()
        return compiled.cost_analysis()["flops"]

    assert flops(layerwise) < 0.87 * flops(linearize_losses)  # 4 products a layer instead of 5


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


class Tied(nn.Module):
    """An embedding that is read outside its module."""

    @nn.compact
    def __call__(self, x):
        embed = nn.Embed(3, 4)
        h = embed(jnp.argmax(x, axis=1) % 3)
        return h @ embed.embedding.T


class Centred(nn.Module):
    """Examples that depend on each other."""

    @nn.compact
    def __call__(self, x):
        h = nn.Dense(2)(x)
        return nn.Dense(2)(jnp.tanh(h - jnp.mean(h, axis=0, keepdims=True)))


class DropConnect(nn.Module):
    """A layer that draws random numbers."""

    @nn.compact
    def __call__(self, x, train=False):
        kernel = self.param("kernel", nn.initializers.ones, (4, 2))
        if train:
            kernel *= jax.random.bernoulli(self.make_rng("dropout"), 0.5, kernel.shape)
        return x @ kernel


class Scanned(nn.Module):
    """A layer inside a loop of JAX's."""

    @nn.compact
    def __call__(self, x):
        return nn.RNN(nn.SimpleCell(2))(x[..., None])[:, -1]


class Rounded(nn.Module):
    """A layer of integers."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(2)(x) + 0.0 * _Integers()(x)[:, None]


class _Integers(nn.Module):
    @nn.compact
    def __call__(self, x):
        return (x @ self.param("kernel", nn.initializers.ones, (4,))).astype(jnp.int32)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Mixed(), "shift: not in a linen module of its own; use 'jvp'"),
        (Flattened(), r"Dense returns \[10, 1\], which does not begin with the 5 ex"),
        (Normalized(), "BatchNorm couples the examples; use 'jvp'"),
        (nnx.Linear(4, 2, rngs=nnx.Rngs(0)), "bias, kernel: not in a linen module"),
        (Tied(), "its derivatives are wrong for this model"),
        (Centred(), "its derivatives are wrong for this model"),
        (DropConnect(), "use 'jvp'"),
        (Scanned(), "use 'jvp'"),
        (Rounded(), "_Integers returns int32; use 'jvp'"),
    ],
)
def test_what_it_is_not_for_is_an_error(module, message):
    model, x = as_model(module), jax.random.normal(jax.random.key(2), (5, 4))
    params, model_state = model.init(jax.random.key(0), x)

    def loss_fn(params, x):
        outputs, _ = model.apply(params, model_state, x, train=True, key=jax.random.key(0))
        return jnp.sum(jnp.sin(outputs + jnp.arange(outputs.shape[1])[None]), axis=1), None

    with pytest.raises(ValueError, match=f"layerwise: .*{message}"):
        verify(loss_fn, params, x)


def test_losses_are_one_for_each_example():
    params = {"kernel": jnp.ones((4, 2)), "bias": jnp.ones(2)}

    def loss_fn(params, x):
        return jnp.mean(nn.Dense(2).apply({"params": params}, x)), None

    with pytest.raises(ValueError, match=r"one loss per example, \[n\], not \(\)"):
        layerwise(loss_fn, params, jnp.ones((3, 4)))
