"""ResNet, WRN and the small CNN: sizes by arithmetic, blocks by numpy, four devices against one."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from captured import EPSILON, build, compiled, conv3x3, images, outputs_of, shapes, size, start

from reweight_jax.models.resnet import _pooled

# --- sizes ----------------------------------------------------------------------------------------


def resnet_size(depth, width, num_outputs, channels):
    """Convolutions without bias, before each but the first one BatchNorm bias, the last layer."""
    blocks, features = (depth - 2) // 6, 16
    total = 9 * channels * features
    for stage in range(3):
        for _ in range(blocks):
            new = 16 * width * 2**stage
            total += features + 9 * features * new + new + 9 * new * new
            features = new
    return total + features + features * num_outputs + num_outputs


def wide_resnet_size(depth, width, num_outputs, channels):
    """Likewise, with BatchNorm scales, and 1x1 convolutions where the shape changes."""
    blocks, features = (depth - 4) // 6, 16
    total = 9 * channels * features
    for stage in range(3):
        for block in range(blocks):
            new = 16 * width * 2**stage
            total += 2 * features + 9 * features * new + 2 * new + 9 * new * new
            if block == 0 and (stage > 0 or width > 1):
                total += features * new
            features = new
    return total + 2 * features + features * num_outputs + num_outputs


@pytest.mark.parametrize(
    "name, depth, width, millions, parameters",
    # In millions, for ten classes and three channels: Table 6 of He et al., Table 4 of Zagoruyko &
    # Komodakis. In full: the sums above.
    [
        ("resnet", 20, 1, "0.27", 269_034),
        ("resnet", 32, 1, "0.46", 463_018),
        ("wide_resnet", 40, 2, "2.2", 2_243_546),
        ("wide_resnet", 16, 8, "11.0", 10_961_370),
        ("wide_resnet", 28, 10, "36.5", 36_479_194),
    ],
)
def test_parameter_counts(name, depth, width, millions, parameters):
    count = {"resnet": resnet_size, "wide_resnet": wide_resnet_size}[name]
    assert count(depth, width, 10, 3) == parameters
    assert f"{parameters / 1e6:.{len(millions.partition('.')[2])}f}" == millions
    _, variables = shapes(build(name, depth, width))
    assert size(variables["params"]) == parameters


def test_parameter_counts_of_other_shapes():
    assert resnet_size(8, 2, 100, 1) == size(
        shapes(build("resnet", 8, 2, num_outputs=100), (1, 28, 28, 1))[1]["params"]
    )
    assert wide_resnet_size(10, 1, 100, 1) == size(
        shapes(build("wide_resnet", 10, 1, num_outputs=100), (1, 28, 28, 1))[1]["params"]
    )
    # Convolutions, two BatchNorm vectors each, and the last layer.
    small_cnn = 9 * 3 * 16 + 9 * 16 * 32 + 9 * 32 * 64 + 2 * (16 + 32 + 64) + 64 * 10 + 10
    assert size(shapes(build("small_cnn"))[1]["params"]) == small_cnn


@pytest.mark.parametrize("depth", [8, 20, 32])
def test_resnet_has_as_many_layers_as_its_depth(depth):
    _, variables = shapes(build("resnet", depth))
    kernels = [leaf.shape for leaf in jax.tree.leaves(variables["params"]) if leaf.ndim == 4]
    assert len(kernels) == depth - 1  # and the dense one
    assert {kernel[:2] for kernel in kernels} == {(3, 3)}
    # A BatchNorm before each of these but the first, and one at the end: mean and variance.
    normalized = sum(kernel[-2] for kernel in kernels) - 3 + 64
    assert size(variables["batch_stats"]) == 2 * normalized


@pytest.mark.parametrize("depth, width, shortcuts", [(10, 1, 2), (16, 2, 3), (28, 10, 3)])
def test_wide_resnet_has_as_many_layers_as_its_depth(depth, width, shortcuts):
    _, variables = shapes(build("wide_resnet", depth, width))
    kernels = [leaf.shape for leaf in jax.tree.leaves(variables["params"]) if leaf.ndim == 4]
    # The depth counts three 1x1 shortcuts and leaves out the dense layer.
    assert sum(kernel[:2] == (3, 3) for kernel in kernels) == depth - 3
    assert sum(kernel[:2] == (1, 1) for kernel in kernels) == shortcuts
    assert max(kernel[-1] for kernel in kernels) == 64 * width


NAMES = [("resnet", 32, 1), ("wide_resnet", 28, 10), ("small_cnn", 0, 1)]


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("shape", [(5, 32, 32, 3), (2, 28, 28, 1)])
@pytest.mark.parametrize("name, depth, width", NAMES)
def test_shapes_and_resolutions(name, depth, width, shape, train):
    model = build(name, depth, width, dropout=0.3, num_outputs=7)
    logits, variables = shapes(model, shape, train)
    assert logits.shape == (shape[0], 7) and logits.dtype == jnp.float32
    outputs = [
        variables["intermediates"][layer]["__call__"][0].shape
        for layer in variables["intermediates"]
        if layer.startswith("Conv_")
    ]
    # Full, half and quarter resolution; the small CNN starts at half.
    scales = (2, 4, 8) if name == "small_cnn" else (1, 2, 4)
    seen = sorted({(output[1], output[2]) for output in outputs}, reverse=True)
    assert seen == [(-(-shape[1] // scale), -(-shape[2] // scale)) for scale in scales]
    by_scale = {output[1]: set() for output in outputs}
    for output in outputs:
        by_scale[output[1]].add(output[3])
    wanted = [{16 * width}, {32 * width}, {64 * width}]
    if width > 1:
        wanted[0].add(16)  # the first convolution
    assert [by_scale[first] for first, _ in seen] == wanted


# --- dtypes and initialisation --------------------------------------------------------------------


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("name, depth, width", NAMES)
def test_bfloat16_is_only_of_the_computation(name, depth, width, train):
    model = build(name, depth, width, dropout=0.3, dtype="bfloat16")
    logits, variables = shapes(model, (4, 8, 8, 3), train)
    assert logits.dtype == jnp.float32
    kept = variables["params"], variables["batch_stats"]
    assert {leaf.dtype for leaf in jax.tree.leaves(kept)} == {jnp.dtype("float32")}
    inner = {k: v for k, v in variables["intermediates"].items() if k != "__call__"}
    assert {leaf.dtype for leaf in jax.tree.leaves(inner)} == {jnp.dtype("bfloat16")}


def test_bfloat16_is_close_to_float32():
    x = images(8, (8, 8, 3))
    variables = start(build("small_cnn"), (1, 8, 8, 3))
    full, _ = compiled(build("small_cnn"), True)(variables, x)
    half, _ = compiled(build("small_cnn", dtype="bfloat16"), True)(variables, x)
    # bfloat16 has 8 bits: errors are parts in 256 of logits around one.
    chex.assert_trees_all_close(half, full, atol=0.1)
    assert not np.array_equal(half, full)


def test_convolutions_start_as_he_et_al_have_it():
    params = start(build("resnet", 8), (1, 8, 8, 3))["params"]
    # Fan-out of the last ones: 9 * 64 = 576. Of 9 * 64 * 64 draws the deviation is good to 0.4%.
    kernel = np.asarray(params["Conv_6"]["kernel"])
    assert kernel.shape == (3, 3, 64, 64)
    np.testing.assert_allclose(kernel.std(), np.sqrt(2 / 576), rtol=0.02)
    assert np.abs(kernel).max() > 3.5 * np.sqrt(2 / 576)  # a normal that is not cut
    np.testing.assert_allclose(np.std(params["Conv_0"]["kernel"]), np.sqrt(2 / (9 * 16)), rtol=0.15)


# --- blocks ---------------------------------------------------------------------------------------


def test_shortcut_without_parameters():
    x = np.arange(1, 1 + 2 * 5 * 4 * 2, dtype=np.float32).reshape(2, 5, 4, 2)
    expected = np.zeros((2, 3, 2, 5), np.float32)
    for row in range(3):
        for column in range(2):
            window = x[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]  # the last is lower
            expected[:, row, column, 1:3] = window.mean(axis=(1, 2))  # one zero before, two after
    np.testing.assert_allclose(_pooled(jnp.asarray(x), 5, 2), expected, rtol=1e-6)
    np.testing.assert_array_equal(_pooled(jnp.asarray(x), 2, 1), x)
    assert _pooled(jnp.asarray(x, jnp.bfloat16), 5, 2).dtype == jnp.bfloat16


def test_only_wide_networks_have_scales():
    for name, depth, scales in [("resnet", 8, 0), ("wide_resnet", 10, 7)]:
        layers = shapes(build(name, depth))[1]["params"]
        assert sum("scale" in layer for layer in layers.values()) == scales
        assert sum("bias" in layer for layer in layers.values()) == 7 + 1  # and the dense layer's


@pytest.mark.parametrize("on_cpu", [False, True])
def test_block(on_cpu):
    """A ResNet's first two: x + conv(relu(BN(conv(relu(BN(x)))))), in training mode."""
    model = build("resnet", 8, on_cpu=on_cpu)
    variables = start(build("resnet", 8), (1, 8, 8, 3))
    biases = {  # of layers that have started they are zero
        name: {"bias": np.linspace(-1, 1, layer["bias"].size, dtype=np.float32)}
        for name, layer in variables["params"].items()
        if name.startswith("BatchNorm")
    }
    variables = {**variables, "params": {**variables["params"], **biases}}
    x = images(4, (8, 8, 3))
    _, new = compiled(model, True)(variables, x)
    seen = outputs_of(new)
    kernels = [np.float64(variables["params"][f"Conv_{i}"]["kernel"]) for i in range(5)]

    def activated(y, layer):
        mean, variance = y.mean(axis=(0, 1, 2)), y.var(axis=(0, 1, 2))
        y = (y - mean) / np.sqrt(variance + EPSILON) + biases[f"BatchNorm_{layer}"]["bias"]
        np.testing.assert_allclose(seen[f"BatchNorm_{layer}"], y, atol=1e-4)
        return np.maximum(y, 0)

    x = conv3x3(2 * np.float64(x) - 1, kernels[0])
    y = conv3x3(activated(x, 0), kernels[1])
    x = x + conv3x3(activated(y, 1), kernels[2])
    # The second block's first convolution halves the resolution, centred on the pixels 0, 2, 4, 6.
    padded = np.pad(activated(x, 2), [(0, 0), (1, 1), (1, 1), (0, 0)])
    strided = sum(
        padded[:, i : i + 7 : 2, j : j + 7 : 2] @ kernels[3][i, j]
        for i in range(3)
        for j in range(3)
    )
    np.testing.assert_allclose(seen["Conv_3"], strided, atol=1e-4)
    x = x.reshape(4, 4, 2, 4, 2, 16).mean(axis=(2, 4))
    x = np.pad(x, [(0, 0), (0, 0), (0, 0), (8, 8)])
    activated(x + conv3x3(activated(strided, 3), kernels[4]), 4)
