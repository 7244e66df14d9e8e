"""fit, load and Fitted: small fits on toy data, against numpy and against each other."""

import json
import warnings
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import nnx
from scipy.special import log_softmax, softmax
from toy_fits import ONE, PAPERS, QUIET, SMALL, quick, toy

import reweight_jax
from reweight_jax import Model, UserError, api, fit, fitted, load
from reweight_jax.models import MODELS

# --- What a run gives -----------------------------------------------------------------------------


def test_wrong_labels_get_less_weight_and_do_not_mislead(toy_run):
    (x, y, wrong), (clean_x, clean_y) = toy()
    weight, alignment = toy_run.examples["weight"], toy_run.examples["alignment"]
    assert weight[wrong].mean() < 0.7 * weight[~wrong].mean()
    assert alignment[wrong].mean() < alignment[~wrong].mean()
    assert np.average(weight, weights=toy_run.examples["visits"]) == pytest.approx(1, abs=1e-5)
    assert np.mean(toy_run.predict(x).argmax(1) == np.where(wrong, 1 - y, y)) > 0.9
    accuracy = np.mean(toy_run.predict(clean_x).argmax(1) == clean_y)
    assert toy_run.result["last"]["test_accuracy"] == pytest.approx(accuracy)


def test_a_run_is_shown_by_its_folder(toy_run):
    assert repr(toy_run) == f"Fitted({str(toy_run.workdir)!r})"


def test_examples_are_in_the_order_given(toy_run):
    np.testing.assert_array_equal(toy_run.examples["label"], toy()[0][1])
    np.testing.assert_array_equal(toy_run.examples["index"], np.arange(200))
    np.testing.assert_array_equal(toy_run.examples["visits"], 4)  # steps 10 to 50, 20 of 200
    assert toy_run.classes == (0, 1)
    assert "true_label" not in toy_run.examples


def test_clean_examples_that_are_trained_on_come_last():
    run = quick(data={"clean_in_train": "always"})
    np.testing.assert_array_equal(run.examples["index"], np.arange(230))
    np.testing.assert_array_equal(run.examples["label"][200:], toy()[1][1])
    np.testing.assert_array_equal(run.examples["is_trusted"], np.arange(230) >= 200)
    table = run.suspects()  # after three steps the model contradicts trusted ones too
    rows = zip(table["index"], table["is_suspect"], table["action"], strict=True)
    assert {row[1:] for row in rows if row[0] >= 200} == {(False, "keep")}
    assert np.nanmin(run.examples["margin"][200:]) < 0 < sum(table["is_suspect"])


def test_held_out_examples_have_no_entry():
    run = quick(data={"num_hyper_val": 40})
    assert len(run.examples["index"]) == 160
    np.testing.assert_array_equal(run.examples["label"], toy()[0][1][run.examples["index"]])
    assert run.result["best_chosen_by"] == "hyper_val"


def test_predict_is_the_mlp_of_the_checkpoint_on_standardised_features(toy_run):
    x = toy()[0][0].astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # orbax's, of devices that it takes from the file
        saved = ocp.PyTreeCheckpointer().restore(toy_run.workdir / "checkpoints" / "100" / "state")
    first, second = (saved["params"]["model"][f"Dense_{i}"] for i in range(2))
    z = (x - x.mean(0, keepdims=True)) / x.std(0, keepdims=True)
    hidden = np.maximum(z @ first["kernel"] + first["bias"][None], 0)
    expected = softmax(hidden @ second["kernel"] + second["bias"][None], axis=1)
    np.testing.assert_allclose(toy_run.predict(x), expected, atol=1e-5)


def test_bytes_are_standardised_like_the_numbers_they_are():
    x = np.random.default_rng(0).integers(0, 256, (200, 6)).astype(np.uint8)
    of_bytes, of_floats = (
        quick(
            None, (table, toy()[0][1]), clean=(table[:30], toy()[1][1]), data={"num_hyper_val": 20}
        )
        for table in (x, x.astype(np.float32))
    )
    np.testing.assert_allclose(of_bytes.predict(x), of_floats.predict(np.float32(x)), atol=1e-5)


def test_a_prediction_does_not_depend_on_the_rows_beside_it(toy_run):
    x = np.tile(toy()[0][0], (4, 1))  # more than one batch of 500
    many = toy_run.predict(x)
    np.testing.assert_allclose(many[600:], many[:200], rtol=1e-6)
    np.testing.assert_allclose(toy_run.predict(x[7:8]), many[7:8], rtol=1e-5)
    np.testing.assert_allclose(toy_run.predict(x[:3], batch_size=2), many[:3], rtol=1e-5)
    for size in (0, -1, 2.0):
        with pytest.raises(
            UserError, match="predict: batch_size: .*; must be a whole number above"
        ):
            toy_run.predict(x, batch_size=size)
    np.testing.assert_allclose(many.sum(1), 1, rtol=1e-6)
    many[0] = 0  # an array of the user's own


def test_best_is_another_step(tmp_path):
    (x, y, wrong), clean = toy()
    hyper_val = (x[:50], np.where(wrong, 1 - y, y)[:50])
    run = quick(None, (x, y), clean=clean, hyper_val=hyper_val, num_steps=40,
                log_every_steps=10, eval_every_steps=10, learning_rate=0.3)  # fmt: skip
    scores = [
        record["hyper_val"]["accuracy"]
        for record in map(json.loads, (run.workdir / "metrics.jsonl").read_text().splitlines())
        if record["kind"] == "eval"
    ]
    accuracy = np.mean(run.predict(hyper_val[0], "best").argmax(1) == hyper_val[1])
    assert accuracy == pytest.approx(max(scores))
    with pytest.raises(UserError, match="step: 'finetuned_last'; valid: last, best"):
        run.predict(x, "finetuned_last")


def test_by_default_there_is_a_bar_and_plots(tmp_path, capsys):
    (x, y, _), clean = toy()
    run = fit(None, (x, y), clean=clean, num_steps=2, workdir=tmp_path / "run")
    assert "reweight seed 0" in capsys.readouterr().err
    assert (run.workdir / "plots" / "weights.png").read_bytes().startswith(b"\x89PNG")


# --- Any model ------------------------------------------------------------------------------------


class Affine(NamedTuple):
    kernel: Any
    bias: Any


def affine_model(num_outputs, scale=1):
    """A linear model whose parameters are a NamedTuple in a list, all zero at first."""

    def init(key, inputs):
        return [Affine(jnp.zeros((inputs.shape[1], num_outputs)), jnp.zeros(num_outputs))], {}

    def apply(params, model_state, inputs, *, train, key):
        return scale * (inputs @ params[0].kernel + params[0].bias[None]), model_state

    return Model(init, apply)


@pytest.mark.parametrize("method", ["baseline", "reweight"])
def test_a_pair_of_functions_takes_the_steps_of_numpy(method, tmp_path):
    """Full batches of softmax regression; the weights of Algorithm 1 in closed form."""
    (x, y, _), (clean_x, clean_y) = toy()
    x, clean_x, y = x[:40] / 50, clean_x / 50, y[:40]
    fields = {"method": method, "batch_size": 40, "clean_batch_size": 30, "momentum": 0.0}
    fields |= {"optimizer": "sgd", "lr_schedule": "drops", "warm_up": 0.0, "settle_at": 1.0}
    data = {"standardize": False, "clean_in_train": "never"}
    run = quick(affine_model(2), (x, y), clean=(clean_x, clean_y), learning_rate=0.5, data=data,
                workdir=tmp_path / "run", **fields)  # fmt: skip

    x1, clean_x1 = (np.c_[a, np.ones(len(a))] for a in (x, clean_x))
    w, total = np.zeros((3, 2)), np.zeros(40)
    for _ in range(3):
        residual = softmax(x1 @ w, axis=1) - np.eye(2)[y]
        clean_residual = softmax(clean_x1 @ w, axis=1) - np.eye(2)[clean_y]
        clean_gradient = clean_x1.T @ clean_residual / 30
        weights = np.full(40, 1 / 40)
        if method == "reweight":
            weights = np.maximum(np.sum((x1 @ clean_gradient) * residual, axis=1), 0)
            weights /= weights.sum()
        w -= 0.5 * x1.T @ (weights[:, None] * residual)
        total += 40 * weights
    np.testing.assert_allclose(run.predict(x), softmax(x1 @ w, axis=1), atol=1e-5)
    np.testing.assert_allclose(run.examples["weight"], total / 3, atol=1e-4)
    log_p = log_softmax(clean_x1 @ w, axis=1)
    assert run.result["last"]["clean_loss"] == pytest.approx(-log_p[range(30), clean_y].mean())

    again = load(tmp_path / "run", model=affine_model(2), devices=ONE)
    np.testing.assert_array_equal(again.predict(x), run.predict(x))
    with pytest.raises(UserError, match="its model is not a built-in one; give it as load"):
        load(tmp_path / "run")


class Linen(nn.Module):
    use_scale: bool = True
    features: int = 4
    sows_into: str = "intermediates"

    @nn.compact
    def __call__(self, inputs, train):
        if isinstance(inputs, dict):
            inputs = jnp.concatenate([inputs["a"], inputs["b"]], axis=1)
        x = nn.Dense(self.features, kernel_init=nn.initializers.constant(0.1))(inputs)
        self.sow(self.sows_into, "hidden", x)
        shift = jnp.arange(float(self.features))[None]
        x = nn.BatchNorm(not train, use_scale=self.use_scale)(x + shift)
        return nn.Dense(2, kernel_init=nn.initializers.normal())(x)


def test_a_dict_of_inputs_gives_what_one_array_gives():
    (x, y, _), (clean_x, clean_y) = toy()
    kwargs = {"data": {"standardize": False}, "num_steps": 5}
    one = quick(Linen(), **kwargs)
    train, clean = ({"a": part[:, :1], "b": part[:, 1:]} for part in (x, clean_x))
    run = quick(Linen(), (train, y), clean=(clean, clean_y), **kwargs)
    np.testing.assert_allclose(run.predict(train), one.predict(x), rtol=1e-5)
    assert run.sample["b"].shape == (1, 1)
    with pytest.raises(UserError, match=r"inputs: has \['a'\], but the training set has \['a', 'b"):
        run.predict({"a": x[:, :1]})


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.Linear(2, 8, rngs=rngs)
        self.out = nnx.Linear(8, 2, rngs=rngs)

    def __call__(self, x):
        return self.out(nnx.relu(self.hidden(x)))


def test_an_nnx_module_is_trained_but_not_changed(tmp_path):
    module = Nnx(nnx.Rngs(0))
    before = np.array(module.hidden.kernel[...])
    run = quick(module, num_steps=60, learning_rate=0.1, workdir=tmp_path / "run")
    np.testing.assert_array_equal(module.hidden.kernel[...], before)
    (x, y, wrong), _ = toy()
    assert np.mean(run.predict(x).argmax(1) == np.where(wrong, 1 - y, y)) > 0.85
    again = load(tmp_path / "run", model=Nnx(nnx.Rngs(1)), devices=ONE)
    np.testing.assert_array_equal(again.predict(x), run.predict(x))


@pytest.mark.parametrize(
    ("trained", "loaded"), [((True,), (False,)), ((False,), (True,)), ((True, 8), (True, 4))]
)
def test_a_run_of_a_model_with_other_parameters_is_refused(trained, loaded, monkeypatch, tmp_path):
    quick(Linen(*trained), workdir=tmp_path / "run")
    with pytest.raises(UserError, match="run: was trained with another model"):
        load(tmp_path / "run", model=Linen(*loaded), devices=ONE)
    with pytest.raises(UserError, match="run: holds a run with another model; choose another"):
        quick(Linen(*loaded), workdir=tmp_path / "run")
    # On another platform the outputs are not compared.
    monkeypatch.setattr(fitted, "same_outputs", lambda one, other: True)
    run = load(tmp_path / "run", model=Linen(*loaded), devices=ONE)
    with pytest.raises(UserError, match="checkpoints/3: is the checkpoint of another model"):
        run.predict(toy()[0][0])


def test_a_run_of_a_model_that_computes_something_else_is_refused(monkeypatch, tmp_path):
    model, other = affine_model(2), affine_model(2, scale=2)  # of the same parameters
    run = quick(model, workdir=tmp_path / "run")
    with pytest.raises(UserError, match="run: was trained with another model"):
        load(tmp_path / "run", model=other)
    with pytest.raises(UserError, match="run: holds a run with another model; choose another"):
        quick(other, workdir=tmp_path / "run")
    monkeypatch.setitem(MODELS, "mine", lambda *_: model)
    quick("mine", workdir=tmp_path / "named")
    monkeypatch.setitem(MODELS, "mine", lambda *_: other)
    with pytest.raises(UserError, match="named: was trained with another model"):
        load(tmp_path / "named")
    x = toy()[0][0]
    np.testing.assert_array_equal(load(tmp_path / "run", model=model).predict(x), run.predict(x))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Linen, "fit: model: the class Linen is not a Flax linen or nnx module"),
        (3, "fit: model: int is not a Flax"),
        ("lenett", "config.model.name: 'lenett'; unknown name; valid: "),
        (affine_model(3), r"fit: model: outputs of shape \(1, 3\) for 1 inputs; must be \[1, 2\]"),
        (
            Linen(sows_into="extra"),
            "fit: model: of what it keeps, model/extra/hidden/1 has another",
        ),
    ],
)
def test_a_model_that_cannot_be_is_refused_before_anything_is_written(model, message, tmp_path):
    with pytest.raises(UserError, match=message):
        quick(model, workdir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


class Counting(nn.Module):
    """It counts its steps, takes batches of four only, and names the axis of several devices."""

    axis_name: str | None = None

    @nn.compact
    def __call__(self, x, train=False):
        steps = self.variable("counts", "steps", lambda: 0)
        if train:
            steps.value += jnp.float32(x.reshape(-1, 4, x.shape[1]).shape[1] == 4).astype(int)
        x = nn.BatchNorm(not train, axis_name=self.axis_name)(nn.Dense(4)(x))
        return nn.Dense(2)(x)


def test_what_a_model_keeps_may_need_its_batch_its_axis_and_no_type():
    (x, y, _), clean = toy()
    options = QUIET | PAPERS | {"clean": clean, "num_steps": 3}
    options |= {"batch_size": 24, "clean_batch_size": 24}
    fit(Counting(), (x, y), devices=ONE, **options)
    fit(Counting("batch"), (x, y), devices=jax.devices()[:2], **options)


def test_a_model_by_name_is_checked_like_one_that_is_given(monkeypatch, tmp_path):
    monkeypatch.setitem(MODELS, "mine", lambda *arguments: affine_model(3))
    with pytest.raises(UserError, match=r"config.model.name: model: outputs of shape \(1, 3\)"):
        quick("mine", workdir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


# --- Devices --------------------------------------------------------------------------------------


@pytest.mark.parametrize("epsilon_method", ["jvp", "layerwise", "lookahead"])
def test_a_model_without_forward_mode_needs_the_lookahead(epsilon_method):
    @jax.custom_vjp
    def activation(x):
        return jnp.tanh(x)

    activation.defvjp(lambda x: (jnp.tanh(x), x), lambda x, g: (g * (1 - jnp.tanh(x) ** 2),))
    model = nn.Sequential([nn.Dense(4), activation, nn.Dense(2)])
    if epsilon_method == "lookahead":
        assert quick(model, epsilon_method=epsilon_method).result["last"]["step"] == 3
    else:
        with pytest.raises(UserError, match="^config.epsilon_method: .* set it to 'lookahead'$"):
            quick(model, epsilon_method=epsilon_method)


def test_four_devices_give_what_one_gives():
    (x, y, _), clean = toy()
    one, four = (
        fit(None, (x, y), clean=clean, num_steps=5, devices=jax.devices()[:n], **SMALL)
        for n in (1, 4)
    )
    np.testing.assert_allclose(four.predict(x), one.predict(x), atol=1e-5)
    np.testing.assert_allclose(four.examples["weight"], one.examples["weight"], atol=1e-4)
    with pytest.raises(UserError, match="config.batch_size: 18 must be divisible by the 4 devices"):
        fit(None, (x, y), clean=clean, **SMALL | {"batch_size": 18})


def test_the_package_has_the_names():
    assert reweight_jax.fit is api.fit
    assert {"fit", "load", "Fitted", "Model"} <= set(reweight_jax.__all__)
    with pytest.raises(AttributeError, match="no attribute 'fitt'"):
        reweight_jax.fitt  # noqa: B018
