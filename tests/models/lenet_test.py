"""LeNet: hand-counted sizes, its one logit for two classes, and its form for a CPU."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reweight_jax.models.lenet import LeNet


def start(model, x):
    return jax.jit(model.init)(jax.random.key(0), x)


@pytest.mark.parametrize("num_outputs, outputs", [(2, 1), (3, 3), (10, 10)])
def test_lenet_sizes(num_outputs, outputs):
    model = LeNet(num_outputs)
    variables = start(model, jnp.zeros((1, 28, 28, 1)))
    # 28 -> 14 -> 7 -> 4 by pooling: 4 * 4 * 64 = 1,024 inputs to the 100 units.
    convolutions = (25 * 1 + 1) * 16 + (25 * 16 + 1) * 32 + (25 * 32 + 1) * 64
    expected = convolutions + (1024 + 1) * 100 + (100 + 1) * outputs
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == expected
    logits = jax.eval_shape(model.apply, variables, jnp.ones((5, 28, 28, 1)))
    assert logits.shape == (5, num_outputs)


def test_two_class_lenet_is_a_sigmoid_of_one_logit():
    model = LeNet(2)
    x = jax.random.uniform(jax.random.key(1), (4, 28, 28, 1))
    variables = start(model, x)
    logits = jax.jit(model.apply)(variables, x)
    chex.assert_trees_all_equal(logits[:, 0], jnp.zeros(4))
    assert np.abs(logits[:, 1]).min() > 0
    chex.assert_trees_all_close(
        jax.nn.softmax(logits)[:, 1], 1 / (1 + np.exp(-np.asarray(logits[:, 1]))), rtol=1e-6
    )


def test_lenet_initialisation_is_a_truncated_normal():
    kernel = start(LeNet(2), jnp.zeros((1, 28, 28, 1)))["params"]["Dense_0"]["kernel"]
    # A normal of 0.1 cut at two standard deviations has 0.8796 of its standard deviation left.
    assert abs(float(kernel.std()) - 0.08796) < 5e-4
    assert 0.19 < float(jnp.abs(kernel).max()) <= 0.2


def test_lenet_in_bfloat16_keeps_float32_parameters_and_logits():
    model = LeNet(2, jnp.bfloat16)
    variables = start(model, jnp.zeros((1, 28, 28, 1)))
    chex.assert_trees_all_equal_dtypes(*jax.tree.leaves(variables), jnp.float32(0))
    x = jax.random.uniform(jax.random.key(1), (4, 28, 28, 1))
    logits = jax.jit(model.apply)(variables, x)
    assert logits.dtype == jnp.float32
    full = jax.jit(LeNet(2).apply)(variables, x)
    chex.assert_trees_all_close(logits, full, atol=0.05)
    assert not np.array_equal(logits, full)


def test_two_outputs_are_independent_if_they_are_not_classes():
    model = LeNet(2, one_logit=False)
    x = jax.random.uniform(jax.random.key(1), (4, 28, 28, 1))
    variables = start(model, x)
    assert variables["params"]["Dense_1"]["kernel"].shape == (100, 2)
    assert np.abs(jax.jit(model.apply)(variables, x)).min() > 0


def test_the_form_for_a_cpu_computes_the_same():
    x = jax.random.uniform(jax.random.key(1), (4, 28, 28, 1))
    variables = start(LeNet(3), x)

    def logits_and_gradient(on_cpu):
        model = LeNet(3, on_cpu=on_cpu)
        program = jax.jit(jax.value_and_grad(lambda v: jnp.sum(model.apply(v, x) ** 2)))
        return program(variables), program.lower(variables).as_text()

    (cpu, cpu_text), (other, text) = map(logits_and_gradient, (True, False))
    chex.assert_trees_all_close(cpu, other, rtol=1e-4, atol=1e-4)
    # Two of the three layers are convolutions of several channels.
    forward = text.count("stablehlo.convolution"), cpu_text.count("stablehlo.convolution")
    assert forward[1] < forward[0]
