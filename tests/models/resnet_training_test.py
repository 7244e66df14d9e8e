"""ResNet and WRN in training: dropout, running statistics, four devices against one."""

import functools

import chex
import jax
import numpy as np
import pytest
from captured import (
    EPSILON,
    build,
    compiled,
    conv3x3,
    images,
    outputs_of,
    start,
)

from reweight_jax.models import as_model

# --- dropout --------------------------------------------------------------------------------------


def test_dropout_is_between_the_two_convolutions_of_a_block():
    # On a CPU, whose BatchNorm rounds alike wherever it is compiled, near zero too.
    model = build("wide_resnet", 10, 2, dropout=0.25).clone(on_cpu=True)
    variables = start(build("wide_resnet", 10, 2), (1, 8, 8, 3))
    _, new = compiled(model, True)(variables, images(8, (8, 8, 3)), jax.random.key(1))
    seen = outputs_of(new)
    assert sorted(name for name in seen if name.startswith("Dropout")) == [
        "Dropout_0",
        "Dropout_1",
        "Dropout_2",
    ]
    # Convolutions by number: the first 0; of the first block the shortcut 1, the others 2 and 3.
    before = np.maximum(seen["BatchNorm_1"], 0)  # after the block's first one
    dropped = seen["Dropout_0"]
    kept = dropped != 0
    np.testing.assert_allclose(dropped[kept], before[kept] / 0.75, rtol=1e-5)
    # Of 8 * 8 * 8 * 32 values about half are positive: the fraction is good to 0.005 (1 sigma).
    assert abs(kept[before > 0].mean() - 0.75) < 0.02
    # Block: the shortcut of the activated input, and the second convolution of what was kept.
    expected = conv3x3(dropped, variables["params"]["Conv_3"]["kernel"])
    np.testing.assert_allclose(seen["Conv_3"], expected, atol=1e-4)
    activated = np.maximum(np.float64(seen["BatchNorm_0"]), 0)
    shortcut = activated @ np.float64(variables["params"]["Conv_1"]["kernel"])[0, 0]
    normalized = shortcut + expected
    normalized -= normalized.mean(axis=(0, 1, 2))
    normalized /= np.sqrt(normalized.var(axis=(0, 1, 2)) + EPSILON)
    np.testing.assert_allclose(seen["BatchNorm_2"], normalized, atol=1e-3)


def test_dropout_is_for_training():
    x = images(4, (8, 8, 3))
    model = build("wide_resnet", 10, 2, dropout=0.25)
    without = build("wide_resnet", 10, 2)
    variables = start(without, (1, 8, 8, 3))
    train = compiled(model, True)
    logits = [train(variables, x, jax.random.key(seed))[0] for seed in (1, 1, 2)]
    chex.assert_trees_all_equal(logits[0], logits[1])
    assert np.abs(logits[0] - logits[2]).max() > 0.01
    # Evaluation needs no key; it is that of the network without dropout. Neither needs rate 0 one.
    evaluated = [compiled(m, False)(variables, x)[0] for m in (model, without)]
    chex.assert_trees_all_equal(*evaluated)
    trained = compiled(without, True)(variables, x)[0]
    assert np.abs(trained - logits[0]).max() > 0.01


# --- BatchNorm ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, depth, dropout", [("small_cnn", 0, 0), ("resnet", 8, 0), ("wide_resnet", 10, 0.3)]
)
def test_four_devices_compute_what_one_does(name, depth, dropout):
    """Outputs and running statistics, with the same dropout masks."""
    assert jax.device_count() == 4
    x = images(8, (8, 8, 3))
    module, key = build(name, depth, dropout=dropout), jax.random.key(1)
    variables = start(build(name, depth), (1, 8, 8, 3))
    params, state = variables["params"], {"batch_stats": variables["batch_stats"]}

    def apply(axis_name):
        model = as_model(module, num_outputs=10, axis_name=axis_name)
        return lambda x: model.apply(params, state, x, train=True, key=key)

    expected, expected_state = jax.jit(apply(None))(x)

    def run(axis_name):
        outputs, new_state = jax.pmap(apply(axis_name), "batch")(x.reshape(4, 2, 8, 8, 3))
        return outputs.reshape(8, 10), new_state

    outputs, new_state = run("batch")
    np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-4)
    for device in range(4):
        chex.assert_trees_all_close(
            jax.tree.map(lambda leaf, d=device: leaf[d], new_state),
            expected_state,
            rtol=1e-4,
            atol=1e-5,
        )
    if name == "small_cnn":  # the same without the axis: what this test would find
        assert np.abs(run(None)[0] - expected).max() > 0.1


@pytest.mark.parametrize("name, depth", [("resnet", 8), ("wide_resnet", 10)])
def test_the_form_for_a_cpu_computes_the_same(name, depth):
    x = images(4, (8, 8, 3))
    variables = start(build(name, depth), (1, 8, 8, 3))
    results, texts = [], []
    for on_cpu in (False, True):
        module = build(name, depth, on_cpu=on_cpu)
        program = jax.jit(functools.partial(module.apply, train=True, mutable=["batch_stats"]))
        texts.append(program.lower(variables, x).as_text())
        results.append(program(variables, x))
    chex.assert_trees_all_close(*results, rtol=1e-4, atol=1e-5)
    barriers = [text.count("optimization_barrier") for text in texts]
    assert barriers[0] == 0 < barriers[1]


@pytest.mark.parametrize("name, depth", [("resnet", 8), ("wide_resnet", 10)])
def test_running_statistics(name, depth):
    """A tenth of each new batch's, by numpy at the first BatchNorm; evaluation leaves them."""
    model = build(name, depth)
    variables = start(model, (1, 8, 8, 3))
    mean, variance = np.zeros(16), np.ones(16)
    for seed in range(2):
        x = images(4, (8, 8, 3), seed)
        mapped = x if name == "wide_resnet" else 2 * x - 1
        stem = conv3x3(mapped, variables["params"]["Conv_0"]["kernel"])
        mean = 0.9 * mean + 0.1 * stem.mean(axis=(0, 1, 2))
        variance = 0.9 * variance + 0.1 * stem.var(axis=(0, 1, 2))
        _, new = compiled(model, True)(variables, x)
        variables = {**variables, "batch_stats": new["batch_stats"]}
        first = variables["batch_stats"]["BatchNorm_0"]
        np.testing.assert_allclose(first["mean"], mean, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(first["var"], variance, rtol=1e-4)
    _, after = compiled(model, False)(variables, x)
    chex.assert_trees_all_equal(after["batch_stats"], variables["batch_stats"])
    # And evaluation normalises by them.
    expected = (stem - mean) / np.sqrt(variance + EPSILON)
    np.testing.assert_allclose(outputs_of(after)["BatchNorm_0"], expected, atol=1e-4)
