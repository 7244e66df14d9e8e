"""config.model.matmul_precision reaches every product of a model and of its derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reweight_jax import models
from reweight_jax.configs import default
from reweight_jax.layerwise import layerwise

INPUTS = np.random.default_rng(0).normal(size=(4, 8, 8, 1)).astype(np.float32)


def products(jaxpr):
    """The precisions of all products and convolutions, those inside other programs included."""
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("dot_general", "conv_general_dilated"):
            yield equation.params["precision"]
        for value in jax.tree.leaves(equation.params, is_leaf=lambda v: hasattr(v, "jaxpr")):
            if hasattr(value, "jaxpr"):
                yield from products(value.jaxpr)


@pytest.mark.parametrize(
    "name, expected",
    [
        ("default", None),
        ("highest", (jax.lax.Precision.HIGHEST,) * 2),
        ("high", (jax.lax.Precision.HIGH,) * 2),
    ],
)
def test_every_product_has_it(name, expected):
    config = default.get_config().model
    config.name = "resnet"
    config.depth = 8
    model = models.create_model(config, 3, on_cpu=False)
    model = models.with_matmul_precision(model, name)
    params, state = model.init(jax.random.key(0), INPUTS)

    def loss(params):
        outputs, _ = model.apply(params, state, INPUTS, train=True, key=jax.random.key(1))
        return jnp.sum(outputs)

    found = list(products(jax.make_jaxpr(jax.grad(loss))(params).jaxpr))
    assert len(found) > 20 and set(found) == {expected}


def test_every_product_of_layerwise_has_it():
    """Its derivatives are taken outside the call of the model."""
    config = default.get_config().model
    model = models.with_matmul_precision(models.create_model(config, 3, on_cpu=False), "highest")
    images = np.zeros((4, 28, 28, 1), np.float32)
    params, state = model.init(jax.random.key(0), images)

    def loss_fn(params, images):
        outputs, _ = model.apply(params, state, images, train=True, key=jax.random.key(1))
        return jnp.sum(outputs, axis=1), None

    def step(params):
        linearized = layerwise(loss_fn, params, images)
        return linearized.jvp(params), linearized.vjp(jnp.ones(4))

    found = list(products(jax.make_jaxpr(step)(params).jaxpr))
    assert len(found) > 15 and set(found) == {(jax.lax.Precision.HIGHEST,) * 2}
