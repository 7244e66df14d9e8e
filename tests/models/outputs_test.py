"""What tells one model from another of the same shapes: outputs from parameters by their shapes."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from reweight_jax.models import Model, as_model
from reweight_jax.models.outputs import outputs_of, same_outputs

IMAGES, TOKENS = np.zeros((1, 8, 8, 3), np.float32), np.zeros((1, 5), np.int32)


class Net(nn.Module):
    activation: str = "relu"
    dropout: float = 0.1
    rematerialises: bool = False
    scale: float = 1.0

    @nn.compact
    def __call__(self, x, train):
        dense = nn.remat(nn.Dense) if self.rematerialises else nn.Dense
        for _ in range(3):
            x = nn.BatchNorm(not train)(nn.Conv(8, (3, 3))(x))
            x = getattr(nn, self.activation)(x)
        x = nn.Dropout(self.dropout, deterministic=not train)(x.mean((1, 2)))
        return self.scale * dense(4)(x)


def of(model, inputs=IMAGES):
    return outputs_of(as_model(model), inputs)


@pytest.mark.parametrize("other", [Net(dropout=0.5), Net(rematerialises=True), Net(scale=1.001)])
def test_the_same_function_has_the_same_outputs(other):
    assert same_outputs(of(Net()), of(other)) and np.ptp(of(Net())) > 0.1


@pytest.mark.parametrize("other", [Net("tanh"), Net("gelu"), Net(scale=1.1)])
def test_another_function_has_others(other):
    assert not same_outputs(of(Net()), of(other))


def test_parameters_that_are_there_do_not_matter_but_constants_do():
    one, other = (nnx.Linear(3, 4, rngs=nnx.Rngs(seed)) for seed in (0, 1))
    assert of(one, IMAGES[:, 0, 0]) == of(other, IMAGES[:, 0, 0])

    def with_constant(constant):
        def apply(params, model_state, inputs, *, train, key):
            return inputs @ params * constant[None], model_state

        return Model(lambda key, inputs: (jnp.zeros((3, 4)), {}), apply)

    one, other = (of(with_constant(np.arange(4) + k), IMAGES[:, 0, 0]) for k in (0, 1))
    assert not same_outputs(one, other)


def test_tokens_keys_and_outputs_that_are_no_numbers():
    class Bag(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(3)(nn.Embed(9, 4)(x).sum(1))

    assert np.ptp(of(Bag(), TOKENS)) > 0

    def apply(params, model_state, inputs, *, train, key):
        return jnp.log(inputs @ params - 99), model_state

    model = Model(lambda key, x: (jnp.zeros((3, 2)), {"key": jax.random.key(1)}), apply)
    assert of(model, IMAGES[:, 0, 0]) == [0, 0]
    assert not same_outputs([1.0], [1.0, 2.0]) and same_outputs([], [])
