"""The built-in models by name: errors in one line, sizes, and which one fits which inputs."""

import functools
import types

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import default
from reweight_jax.errors import UserError
from reweight_jax.models import MODELS, auto_name, check_inputs, create_model
from reweight_jax.models.lenet import LeNet


def create(num_outputs=10, task="classification", axis_name=None, on_cpu=True, **fields):
    config = default.get_config().model
    config.update(fields)
    return create_model(config, num_outputs, on_cpu=on_cpu, axis_name=axis_name, task=task)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"name": "vgg"}, "config.model.name: unknown name 'vgg'; valid: lenet, mlp, resnet"),
        ({"name": "auto"}, "config.model.name: unknown name 'auto'; valid: lenet"),
        ({"name": "resnet", "depth": 33}, r"config.model.depth: 33; must be 6b \+ 2: 8, 14, 20"),
        ({"name": "resnet", "depth": 28}, "config.model.depth: 28; must be 6b"),
        ({"name": "resnet", "depth": 2}, "config.model.depth: 2; must be 6b"),
        ({"name": "resnet", "depth": -4}, "config.model.depth: -4; must be 6b"),
        (
            {"name": "wide_resnet", "depth": 32},
            r"config.model.depth: 32; must be 6b \+ 4: 10, 16, 22",
        ),
        ({"name": "wide_resnet", "depth": 4}, "config.model.depth: 4; must be 6b"),
        ({"name": "resnet", "dtype": "float16"}, "config.model.dtype: unknown name 'float16'"),
        ({"name": "transformer", "vocabulary": 0}, "config.model.vocabulary: 0; must be"),
        (
            {"name": "transformer", "vocabulary": 9, "features": 30, "num_heads": 4},
            "config.model.features: 30; must be a multiple of num_heads",
        ),
    ],
)
def test_impossible_models_are_named(fields, message):
    with pytest.raises(UserError, match=f"^{message}") as error:
        create(**fields)
    assert "\n" not in str(error.value)


INPUTS = {
    "mlp": jax.ShapeDtypeStruct((3, 6), jnp.float32),
    "transformer": jax.ShapeDtypeStruct((3, 5), jnp.int32),
}
IMAGES = jax.ShapeDtypeStruct((3, 28, 28, 1), jnp.float32)


@pytest.mark.parametrize("num_outputs", [1, 2, 7])
@pytest.mark.parametrize("name", MODELS)
def test_every_model_is_built_by_its_name(name, num_outputs):
    model = create(num_outputs, name=name, depth=10 if name == "wide_resnet" else 8, vocabulary=9)
    inputs = INPUTS.get(name, IMAGES)

    def run(key, inputs):
        params, state = model.init(key, inputs)
        return model.apply(params, state, inputs, train=True, key=key), (params, state)

    (outputs, new_state), (params, state) = jax.eval_shape(run, jax.random.key(0), inputs)
    assert outputs.shape == (3, num_outputs) and outputs.dtype == jnp.float32
    chex.assert_trees_all_equal_shapes_and_dtypes(new_state, state)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}


def test_lenet_has_one_logit_only_for_two_classes():
    x = jax.random.uniform(jax.random.key(0), (4, 12, 12, 1))
    for task, columns in [("classification", 1), ("multi_label", 2), ("regression", 2)]:
        model = create(2, task, name="lenet")
        params, state = jax.jit(model.init)(jax.random.key(1), x)
        outputs, _ = jax.jit(functools.partial(model.apply, train=False))(params, state, x)
        assert np.all(outputs != 0, axis=0).sum() == columns


def test_platform_reaches_the_model():
    seen = []

    def factory(config, num_outputs, dtype, on_cpu):
        seen.append((num_outputs, dtype, on_cpu))
        return LeNet(num_outputs, dtype, on_cpu)

    MODELS["mine"] = factory
    try:
        for on_cpu in (True, False):
            create(3, name="mine", on_cpu=on_cpu, dtype="bfloat16")
    finally:
        del MODELS["mine"]
    assert seen == [(3, jnp.bfloat16, True), (3, jnp.bfloat16, False)]


@pytest.mark.parametrize(
    "shape, dtype, name",
    [
        ((5, 3), np.float32, "mlp"),
        ((5, 3), np.float64, "mlp"),
        ((5, 3), jnp.bfloat16, "mlp"),
        ((5, 3), np.uint8, "mlp"),
        ((5, 3), np.int64, "transformer"),
        ((5, 3), np.int32, "transformer"),
        ((5, 8, 8, 3), np.uint8, "small_cnn"),
        ((5, 8, 8, 3), np.float32, "small_cnn"),
    ],
)
def test_auto_name(shape, dtype, name):
    assert auto_name(types.SimpleNamespace(shape=shape, dtype=np.dtype(dtype))) == name


@pytest.mark.parametrize(
    "inputs, message",
    [
        (np.zeros((4, 2, 2)), r"inputs float64\[4, 2, 2\] suit no"),
        (np.zeros(4), r"inputs float64\[4\] suit no"),
        (np.zeros((4, 2), bool), r"inputs bool\[4, 2\] suit no"),
        (np.zeros((4, 2, 2, 1), np.int32), r"inputs int32\[4, 2, 2, 1\] suit no"),
        ({"a": np.zeros((4, 2))}, r"inputs \{'a': 'float64\[4, 2\]'\} suit no"),
    ],
)
def test_inputs_that_no_model_fits_are_named(inputs, message):
    with pytest.raises(ValueError, match=message):
        auto_name(inputs)


@pytest.mark.parametrize("name", ["mlp", "lenet", "small_cnn", "resnet", "wide_resnet"])
def test_what_a_model_cannot_take_is_named(name, monkeypatch):
    table, image = np.zeros((1, 3), np.float32), np.zeros((1, 8, 8, 3), np.float32)
    check_inputs(name, image)
    if name != "mlp":
        with pytest.raises(
            ValueError, match=rf"{name} takes images .*; the inputs are float32\[1, 3"
        ):
            check_inputs(name, table)
    with pytest.raises(
        ValueError, match=f"{name} takes .*, one array; the inputs are .'a': 'float"
    ):
        check_inputs(name, {"a": image})
    for inputs in (table, image):
        with pytest.raises(ValueError, match=r"transformer takes ints \[N, T\]"):
            check_inputs("transformer", inputs)
    check_inputs("transformer", np.zeros((1, 3), np.uint16))
    check_inputs(name, image.astype(np.int16))
    check_inputs("mine", {"a": image})
    monkeypatch.setitem(MODELS, name, lambda *arguments: None)  # one of the user's own
    check_inputs(name, {"a": image})
