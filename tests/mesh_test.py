"""`reweight_step` under `jax.jit` with sharded parameters and batches is that of one device."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small_models
from by_hand import batches
from lowering import spread

from reweight_jax import ReweightState, reweight_step
from reweight_jax.models.transformer import Transformer

TX = optax.sgd(0.1, momentum=0.9)


def transformer_case():
    sizes = {"num_layers": 1, "num_heads": 2, "features": 16, "vocabulary": 32}
    network = Transformer(num_outputs=3, dtype=jnp.float64, **sizes)
    rng = np.random.default_rng(0)

    def batch(n):
        tokens = rng.integers(0, 32, (n, 8)).astype(np.int32)
        return {"x": tokens, "y": rng.integers(0, 3, n).astype(np.int32)}

    def loss_fn(params, batch):
        logits = network.apply({"params": params}, batch["x"], train=True)
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]), None

    params = network.init(jax.random.key(0), batch(1)["x"], train=False)["params"]
    return loss_fn, params, batch(8), batch(4)


def batch_norm_case():
    network = small_models.residual_net(np.float64, dropout_rate=0.0)
    loss_fn = network.loss_fn(network.model_state, jax.random.key(0))
    return loss_fn, network.params, *batches(network, 8, 4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("axes", "method"),
    [
        (("data", "model"), "jvp"),
        (("data", "model"), "lookahead"),
        (("data",), "jvp"),
        (("model",), "jvp"),
    ],
)
@pytest.mark.parametrize("case", [transformer_case, batch_norm_case])
def test_parameters_spread_over_a_mesh(x64, axes, case, method):
    loss_fn, params, batch, clean = case()
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), params)
    state = ReweightState(params, TX.init(params))
    step = functools.partial(reweight_step, loss_fn=loss_fn, tx=TX, method=method)
    expected = jax.jit(step)(state, batch, clean)

    mesh = jax.make_mesh((2, 2), ("data", "model"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    shardings = jax.tree.map(functools.partial(spread, mesh=mesh, axes=axes), state)
    state = jax.device_put(state, shardings)
    by_rows = jax.NamedSharding(mesh, jax.P("data"))
    batch, clean = jax.device_put((batch, clean), by_rows)
    sharded = jax.jit(step, out_shardings=(shardings, None))
    new_state, metrics = sharded(state, batch, clean)
    chex.assert_trees_all_close((new_state, metrics), expected, rtol=1e-4, atol=1e-7)

    whole = sum(leaf.nbytes for leaf in jax.tree.leaves(new_state))
    for device in mesh.devices.flat:
        shards = (s for leaf in jax.tree.leaves(new_state) for s in leaf.addressable_shards)
        own = sum(shard.data.nbytes for shard in shards if shard.device == device)
        parts = np.prod([mesh.shape[axis] for axis in axes])
        assert own <= 1.1 * whole / parts, (own, whole)
