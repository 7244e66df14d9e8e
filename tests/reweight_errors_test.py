"""What the functions of the algorithm refuse, and what they say then."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_models
from by_hand import batches, both_methods, step_from_params

from reweight_jax import epsilon_gradient, example_weights

entry_points = pytest.mark.parametrize(
    "function", [epsilon_gradient, example_weights, step_from_params]
)


@entry_points
def test_unknown_method_lists_the_valid_ones(function):
    network, loss_fn = small_models.logistic(), small_models.logistic_losses
    with pytest.raises(ValueError, match="unknown method 'jpv'; valid: 'lookahead', 'jvp'"):
        function(loss_fn, network.params, *batches(network, 4, 4), method="jpv")


@entry_points
@both_methods
@pytest.mark.parametrize("shape", [(), (4, 1)])
def test_loss_must_be_one_number_per_example(shape, method, function):
    network = small_models.logistic()

    def loss_fn(params, batch):
        losses, _ = small_models.logistic_losses(params, batch)
        return (jnp.mean(losses) if shape == () else losses[:, None]), None

    message = rf"one loss per example, \[n\], not \({', '.join(map(str, shape))}\)"
    with pytest.raises(ValueError, match=message):
        function(loss_fn, network.params, *batches(network, 4, 4), method=method)


@entry_points
@both_methods
def test_clean_losses_are_checked_too(method, function):
    """A column of labels would make them [m, m], and no rows a loss of zero."""
    network = small_models.logistic()
    batch, clean = batches(network, 4, 3)
    call = functools.partial(function, small_models.logistic_losses, network.params)
    message = r"one loss per example, \[n\], not \(3, 3\)"
    with jax.numpy_rank_promotion("allow"), pytest.raises(ValueError, match=message):
        call(batch, clean | {"y": clean["y"][:, None]}, method=method)
    with pytest.raises(ValueError, match=r"one loss per example, \[n\], not \(0,\)"):
        call(batch, jax.tree.map(lambda x: x[:0], clean), method=method)
    with pytest.raises(ValueError, match=r"one loss per example, \[n\], not \(0,\)"):
        call(jax.tree.map(lambda x: x[:0], batch), clean, method=method)


@entry_points
@pytest.mark.parametrize("leaf", [np.ones(2, np.int32), np.ones(2, np.complex64), np.ones(2, bool)])
def test_parameters_are_real_numbers(leaf, function):
    network = small_models.logistic()
    params = dict(network.params) | {"more": {"table": leaf}}
    with pytest.raises(ValueError, match=f"params: more/table is {leaf.dtype}, and parameters"):
        function(small_models.logistic_losses, params, *batches(network, 4, 4))
