"""fit, load and Fitted: small fits on toy data, against numpy and against each other."""

import functools
import gc
import json
import logging
import pickle
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

import reweight_jax
from reweight_jax import Model, UserError, api, fit, load
from reweight_jax.data.splits import load as load_data
from reweight_jax.models import MODELS
from reweight_jax.records.metrics import MetricsWriter
from reweight_jax.records.workdir import identity
from reweight_jax.sealed import read_sealed, seal
from reweight_jax.train import loop

ONE = jax.devices()[:1]
QUIET = {"progress": False, "plots": False}
SMALL = QUIET | {"batch_size": 20, "model_fields": {"hidden": (8,)}}


@functools.cache
def toy():
    """Two classes that a line separates: (x, labels of which 3 in 10 are wrong, which), clean."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 2)) * [1, 50] + [3, -70]
    clean_x = rng.normal(size=(30, 2)) * [1, 50] + [3, -70]
    right, wrong = (x[:, 0] > 3).astype(int), rng.random(200) < 0.3
    return (x, np.where(wrong, 1 - right, right), wrong), (clean_x, (clean_x[:, 0] > 3).astype(int))


def quick(model=None, train=None, **fields):
    """`fit` on one device, on the toy data if no other is given."""
    if train is None:
        (x, y, _), fields["clean"] = toy()[0], fields.get("clean", toy()[1])
        train = (x, y)
    return fit(model, train, devices=ONE, **SMALL | {"num_steps": 3} | fields)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy") / "run"
    return quick(workdir=folder, num_steps=100, learning_rate=0.1, test=toy()[1])


# --- What a run gives -----------------------------------------------------------------------------


def test_wrong_labels_get_less_weight_and_do_not_mislead(run):
    (x, y, wrong), (clean_x, clean_y) = toy()
    weight, alignment = run.examples["weight"], run.examples["alignment"]
    assert weight[wrong].mean() < 0.7 * weight[~wrong].mean()
    assert alignment[wrong].mean() < alignment[~wrong].mean()
    assert np.average(weight, weights=run.examples["visits"]) == pytest.approx(1, abs=1e-5)
    assert np.mean(run.predict(x).argmax(1) == np.where(wrong, 1 - y, y)) > 0.9
    accuracy = np.mean(run.predict(clean_x).argmax(1) == clean_y)
    assert run.result["last"]["test_accuracy"] == pytest.approx(accuracy)


def test_examples_are_in_the_order_given(run):
    np.testing.assert_array_equal(run.examples["label"], toy()[0][1])
    np.testing.assert_array_equal(run.examples["index"], np.arange(200))
    np.testing.assert_array_equal(run.examples["visits"], 5)  # 50 of 100 steps, 20 of 200
    assert run.classes == (0, 1)
    assert "true_label" not in run.examples


def test_clean_examples_that_are_trained_on_come_last():
    run = quick(data={"clean_in_train": "always"})
    np.testing.assert_array_equal(run.examples["index"], np.arange(230))
    np.testing.assert_array_equal(run.examples["label"][200:], toy()[1][1])


def test_held_out_examples_have_no_entry():
    run = quick(data={"num_hyper_val": 40})
    assert len(run.examples["index"]) == 160
    np.testing.assert_array_equal(run.examples["label"], toy()[0][1][run.examples["index"]])
    assert run.result["best_chosen_by"] == "hyper_val"


def test_predict_is_the_mlp_of_the_checkpoint_on_standardised_features(run):
    x = toy()[0][0].astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # orbax's, of devices that it takes from the file
        saved = ocp.PyTreeCheckpointer().restore(run.workdir / "checkpoints" / "100" / "state")
    first, second = (saved["params"]["model"][f"Dense_{i}"] for i in range(2))
    z = (x - x.mean(0, keepdims=True)) / x.std(0, keepdims=True)
    hidden = np.maximum(z @ first["kernel"] + first["bias"][None], 0)
    expected = softmax(hidden @ second["kernel"] + second["bias"][None], axis=1)
    np.testing.assert_allclose(run.predict(x), expected, atol=1e-5)


def test_a_prediction_does_not_depend_on_the_rows_beside_it(run):
    x = np.tile(toy()[0][0], (4, 1))  # more than one batch of 500
    many = run.predict(x)
    np.testing.assert_allclose(many[600:], many[:200], rtol=1e-6)
    np.testing.assert_allclose(run.predict(x[7:8]), many[7:8], rtol=1e-5)
    np.testing.assert_allclose(run.predict(x[:3], batch_size=2), many[:3], rtol=1e-5)
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


def affine_model(num_outputs):
    """A linear model whose parameters are a NamedTuple in a list, all zero at first."""

    def init(key, inputs):
        return [Affine(jnp.zeros((inputs.shape[1], num_outputs)), jnp.zeros(num_outputs))], {}

    def apply(params, model_state, inputs, *, train, key):
        return inputs @ params[0].kernel + params[0].bias[None], model_state

    return Model(init, apply)


@pytest.mark.parametrize("method", ["baseline", "reweight"])
def test_a_pair_of_functions_takes_the_steps_of_numpy(method, tmp_path):
    """Full batches of softmax regression; the weights of Algorithm 1 in closed form."""
    (x, y, _), (clean_x, clean_y) = toy()
    x, clean_x, y = x[:40] / 50, clean_x / 50, y[:40]
    fields = {"method": method, "batch_size": 40, "clean_batch_size": 30, "momentum": 0.0}
    fields |= {"optimizer": "sgd", "lr_schedule": "drops", "settle_at": 1.0}
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
    @nn.compact
    def __call__(self, inputs, train):
        if isinstance(inputs, dict):
            inputs = jnp.concatenate([inputs["a"], inputs["b"]], axis=1)
        x = nn.Dense(4, kernel_init=nn.initializers.constant(0.1))(inputs)
        x = nn.BatchNorm(not train)(x + jnp.arange(4.0)[None])
        return nn.Dense(2, kernel_init=nn.initializers.normal())(x)


def test_a_dict_of_inputs_gives_what_one_array_gives():
    (x, y, _), (clean_x, clean_y) = toy()
    kwargs = {"data": {"standardize": False}, "num_steps": 5}
    one = quick(Linen(), **kwargs)
    train, clean = ({"a": part[:, :1], "b": part[:, 1:]} for part in (x, clean_x))
    run = quick(Linen(), (train, y), clean=(clean, clean_y), **kwargs)
    np.testing.assert_array_equal(run.predict(train), one.predict(x))
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
    ("model", "message"),
    [
        (Linen, "fit: model: the class Linen is not a Flax linen or nnx module"),
        (3, "fit: model: int is not a Flax"),
        ("lenett", "config.model.name: 'lenett'; unknown name; valid: "),
        (affine_model(3), r"fit: model: outputs of shape \(1, 3\) for 1 inputs; must be \[1, 2\]"),
    ],
)
def test_a_model_that_cannot_be_is_refused_before_anything_is_written(model, message, tmp_path):
    with pytest.raises(UserError, match=message):
        quick(model, workdir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_model_by_name_is_checked_like_one_that_is_given(monkeypatch, tmp_path):
    monkeypatch.setitem(MODELS, "mine", lambda *arguments: affine_model(3))
    with pytest.raises(UserError, match=r"config.model.name: model: outputs of shape \(1, 3\)"):
        quick("mine", workdir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


# --- Any inputs and labels ------------------------------------------------------------------------


@functools.cache
def plain_probabilities():
    return quick(method="baseline").predict(toy()[0][0])


@pytest.mark.parametrize(
    ("encode", "classes"),
    [
        (lambda y: [("no", "yes")[k] for k in y], ("no", "yes")),
        (lambda y: np.array([-3, 70])[y], (-3, 70)),
        (lambda y: y == 1, (False, True)),
        (lambda y: [float(k) for k in y], (0, 1)),
        (lambda y: np.array([b"a", b"b"])[y], ("a", "b")),
        (lambda y: y[:, None], (0, 1)),
    ],
)
def test_labels_of_any_type_give_the_same_model(encode, classes):
    (x, y, _), (clean_x, clean_y) = toy()
    clean = (clean_x.tolist(), encode(clean_y))
    run = quick(None, (x.tolist(), encode(y)), clean=clean, method="baseline")
    assert run.classes == classes
    assert [type(name) for name in run.classes] == [type(name) for name in classes]
    np.testing.assert_array_equal(run.predict(x), plain_probabilities())


def test_pandas_columns_are_taken_by_their_names():
    pd = pytest.importorskip("pandas")
    (x, y, _), (clean_x, clean_y) = toy()
    frame = pd.DataFrame(x, columns=["width", "height"], index=np.arange(200)[::-1])
    clean = pd.DataFrame(clean_x, columns=["width", "height"])[["height", "width"]]
    series = pd.Series(y).map({0: "no", 1: "yes"})
    run = quick(None, (frame, series), method="baseline",
                clean=(clean, pd.Series(clean_y).map({0: "no", 1: "yes"})))  # fmt: skip
    assert run.columns == ("width", "height")
    np.testing.assert_allclose(run.predict(x), plain_probabilities(), rtol=1e-5)
    swapped = frame[["height", "width"]].assign(other="not read")
    np.testing.assert_array_equal(run.predict(swapped), run.predict(x))
    with pytest.raises(UserError, match="predict: inputs: lacks the column height"):
        run.predict(frame[["width"]])
    with pytest.raises(UserError, match="fit: clean_input: lacks the column width"):
        quick(None, (frame, series), clean=(clean[["height"]], clean_y))


def test_missing_tags_leave_no_trace(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 3))
    tags = (x > 0).astype(float)
    tags[rng.random(tags.shape) < 0.2] = np.nan
    clean = (x[:60], (x[:60] > 0).astype(int))
    kwargs = {"task": "multi_label", "num_steps": 100, "learning_rate": 0.05, "test": clean}
    run = quick(None, (x, tags), clean=clean, **kwargs)
    p = run.predict(x)
    assert p.shape == (120, 3)
    assert np.mean((p > 0.5) == (x > 0)) > 0.85
    assert run.result["last"]["test_error"] == pytest.approx(np.mean((p[:60] > 0.5) != clean[1]))
    np.testing.assert_array_equal(run.examples["margin"][np.isnan(tags)], 0)
    assert np.all(run.examples["margin"][~np.isnan(tags)] != 0)
    with pytest.raises(UserError, match="test_label: all tags are unknown"):
        quick(None, (x, tags), clean=clean, **kwargs | {"test": (x, np.full_like(x, -1))})
    again = quick(None, (x, np.nan_to_num(tags, nan=-1).astype(int)), clean=clean, **kwargs)
    np.testing.assert_array_equal(again.predict(x), p)
    assert run.classes == (0, 1, 2)


@pytest.mark.parametrize("shape", [(200,), (200, 1), (200, 2)])
def test_regression_predicts_in_the_units_of_the_labels(shape):
    x = toy()[0][0]
    y = 1e4 + 1e3 * (x @ np.array([[1.0, -2], [0.03, 0.02]]))[:, : shape[1] if shape[1:] else 1]
    run = quick(None, (x, y.reshape(shape)), clean=(x[:30], y.reshape(shape)[:30]),
                task="regression", num_steps=200, learning_rate=0.1,
                model_fields={"hidden": ()})  # fmt: skip
    predicted = run.predict(x)
    assert predicted.shape == ((200, 2) if shape == (200, 2) else (200,))
    np.testing.assert_allclose(predicted.reshape(200, -1), y, atol=0.02 * y.std())
    rmse = np.sqrt(np.mean((predicted.reshape(200, -1)[:30] - y[:30]) ** 2))
    assert run.result["last"]["clean_rmse"] == pytest.approx(rmse, rel=1e-2)
    assert run.classes == ()


def test_tokens_train_a_transformer():
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 9, size=(120, 5))
    label = (tokens == 3).any(axis=1)
    run = quick(None, (tokens, label), clean=(tokens[:30], label[:30]), learning_rate=0.01,
                num_steps=60, clean_batch_size=30,
                model_fields={"features": 8, "num_heads": 1, "num_layers": 1})  # fmt: skip
    assert run.sample.dtype == np.int32
    assert np.mean(run.predict(tokens).argmax(1) == label) > 0.9
    with pytest.raises(UserError, match=r"predict: inputs: token ids 0..9; must be in 0..8"):
        run.predict(np.arange(5, 10)[None] % 10 * [[0, 1, 1, 1, 1]])


def test_images_train_a_small_cnn():
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, size=60)
    image = rng.integers(0, 100, size=(60, 8, 8, 1)) + 100 * label[:, None, None, None]
    image = image.astype(np.uint8)
    run = quick(None, (image, label), clean=(image[:20], label[:20]), num_steps=20,
                learning_rate=0.01)  # fmt: skip
    np.testing.assert_array_equal(run.predict(image).argmax(1), label)
    np.testing.assert_allclose(run.predict(image[..., 0]), run.predict(image))
    with pytest.raises(UserError, match="inputs: is float32, but the training set is uint8"):
        run.predict(image / 255)


# --- Errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"learning_rte": 1.0}, "no field learning_rte; did you mean learning_rate?"),
        ({"workdr": "x"}, "no field workdr; did you mean workdir?"),
        ({"num_clean": 3}, "no field num_clean; did you mean data=dict(num_clean=...)?"),
        ({"data": {"num_clen": 3}}, "no field data.num_clen; did you mean data=dict(num_clean="),
        (
            {"model_fields": {"hiden": (3,)}},
            "no field model.hiden; did you mean model_fields=dict(",
        ),
        ({"xyzzy": 1}, "no field xyzzy; configs/default.py has all fields"),
        ({"data": 3}, "data: 3; must be a dict, data=dict(...)"),
        ({"data": {"path": "x.npz"}}, "config.data.path: fit takes arrays and reads no files"),
        ({"num_steps": "many"}, "config.num_steps: 'many'; must be of the type int"),
        ({"seed": None}, "config.seed: None; must be of the type int"),
        ({"num_steps": 0}, "config.num_steps: 0; must be at least 1"),
        ({"method": "rewieght"}, "config.method: 'rewieght'; unknown name; valid: "),
        ({"task": "rank"}, "task: unknown name 'rank'; valid: "),
        ({"clean": np.ones((3, 2))}, "clean: must be a pair (inputs, labels)"),
        ({"clean": None}, "there is no trusted set, and none is drawn from labels of unknown"),
        ({"clean": (np.ones((3, 2)), [0, 1])}, "clean_input has 3 rows, but clean_label has 2"),
        ({"clean": (np.ones((2, 3)), [0, 1])}, "clean_input: a row has shape (3,), but in train"),
    ],
)
def test_a_mistake_is_one_line(fields, message, tmp_path):
    with pytest.raises(UserError) as error:
        quick(workdir=tmp_path / "run", **{"clean": toy()[1]} | fields)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_numbers_of_numpy_are_taken(tmp_path):
    run = quick(num_steps=np.int64(2), learning_rate=np.float32(0.5), lr_drop_steps=np.array([1]),
                model_fields={"hidden": [np.int32(4)]}, workdir=str(tmp_path / "run"))  # fmt: skip
    saved = json.loads((tmp_path / "run" / "config.json").read_text())
    assert saved["lr_drop_steps"] == [1]
    assert saved["model"]["hidden"] == [4]
    assert run.config.learning_rate == 0.5


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (np.ones(2), r"predict: inputs: shape \(2,\); must be \[N, ...\]"),
        (np.ones((1, 3)), r"predict: inputs: a row has shape \(3,\), but in the training set .*2"),
        (np.ones((0, 2)), r"predict: inputs: is empty, \(0, 2\)"),
        ([["a", "b"]], "predict: inputs: is <U1; must be numbers"),
        ([[1.0, np.nan]], "predict: inputs: row 0 has a value that is missing"),
        ({"x": np.ones((1, 2))}, "predict: inputs: must be a dict of arrays if and only if the"),
        (np.ones((1, 2), np.uint8), "predict: inputs: is uint8, but the training set is float32"),
    ],
)
def test_inputs_unlike_the_training_set_are_refused(run, inputs, message):
    with pytest.raises(UserError, match=message):
        run.predict(inputs)


# --- Folders --------------------------------------------------------------------------------------


def test_the_same_call_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    fields = dict.fromkeys(("log_every_steps", "eval_every_steps", "checkpoint_every_steps"), 2)
    whole = quick(num_steps=10, workdir=tmp_path / "whole", **fields)
    write = MetricsWriter.write

    def stop_at_7(writer, record):
        if record["step"] >= 7:
            raise KeyboardInterrupt
        write(writer, record)

    monkeypatch.setattr(MetricsWriter, "write", stop_at_7)
    with pytest.raises(KeyboardInterrupt):
        quick(num_steps=10, workdir=tmp_path / "run", **fields)
    with pytest.raises(UserError, match=r"no finished run \(result.json is missing"):
        load(tmp_path / "run")
    steps = []
    monkeypatch.setattr(
        MetricsWriter, "write", lambda *args: (steps.append(args[1]["step"]), write(*args))
    )
    run = quick(num_steps=10, workdir=tmp_path / "run", **fields)
    assert min(steps) == 8  # from the checkpoint of step 6
    x = toy()[0][0]
    np.testing.assert_array_equal(run.predict(x), whole.predict(x))
    for name, values in whole.examples.items():
        np.testing.assert_array_equal(run.examples[name], values, err_msg=name)
    with pytest.raises(UserError, match="holds a run with another config.seed"):
        quick(num_steps=10, seed=1, workdir=tmp_path / "run", **fields)


def test_a_temporary_folder_lives_as_long_as_the_result(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    run = quick()
    folder, x = run.workdir, toy()[0][0]
    assert list(tmp_path.iterdir()) == [folder]
    expected, saved = run.predict(x), run.save(tmp_path / "saved")
    content = pickle.dumps(run)
    del run
    gc.collect()  # pytest makes the ResourceWarning of a folder that is left an error
    assert list(tmp_path.iterdir()) == [saved]
    np.testing.assert_array_equal(load(saved, devices=ONE).predict(x), expected)
    with pytest.raises(UserError, match="saved: the run cannot be saved there"):
        load(saved).save(saved)
    unpickled = pickle.loads(content)
    np.testing.assert_array_equal(unpickled.predict(x), expected)
    with pytest.raises(UserError, match="checkpoints"):
        unpickled.predict(x, "best")


def test_a_run_that_fails_leaves_no_temporary_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(UserError, match="not finite"):
        quick(learning_rate=1e30, num_steps=20)
    assert not list(tmp_path.iterdir())


def test_loading_and_predicting_say_nothing(run, caplog, capfd):
    with caplog.at_level(logging.WARNING):
        files = sorted(run.workdir.rglob("*"))
        load(run.workdir).predict(toy()[0][0])
    assert not caplog.records
    assert capfd.readouterr() == ("", "")
    assert sorted(run.workdir.rglob("*")) == files


def test_a_run_of_the_command_line_can_be_loaded(digits_config, tmp_path):
    config = digits_config(**{"model.name": "mlp", "model.hidden": (16,), "num_steps": 30})
    result = loop.train_and_evaluate(config, tmp_path, ONE)
    run = load(tmp_path)
    assert run.result == json.loads(json.dumps(result))
    test = load_data(config, config.seed).splits.test
    p = run.predict(test.inputs)
    accuracy = np.mean(p.argmax(1) == test.label)
    assert 0.5 < accuracy == pytest.approx(result["last"]["test_accuracy"])
    assert run.classes == tuple(config.data.classes)


def edit(folder, saved=None, **fields):
    saved = saved or read_sealed(folder / "config.json") | fields
    result = read_sealed(folder / "result.json") | {"run": identity(saved)}
    for name, content in (("config.json", saved), ("result.json", result)):
        (folder / name).write_text(json.dumps(seal(content)))


def test_fields_newer_than_a_run_have_their_defaults(run, tmp_path):
    folder = run.save(tmp_path / "run")
    saved = read_sealed(folder / "config.json")
    del saved["epsilon_over"], saved["data"]["workers"]
    edit(folder, saved)
    again = load(folder, devices=ONE)
    assert again.config.epsilon_over == ""
    assert again.config.learning_rate == 0.1
    x = toy()[0][0]
    np.testing.assert_array_equal(again.predict(x), run.predict(x))


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "result.json").unlink(), "no finished run (result.json is missing"),
        (lambda f: (f / "config.json").write_text("{"), "config.json: is damaged, or was edited"),
        (lambda f: edit(f, gone=1), "a run of another version"),
        (lambda f: cut(f / "examples.npz"), "examples.npz: is damaged, or was edited"),
        (lambda f: edit(f, task="mine"), "config.task: unknown name 'mine'; valid: classification"),
        (
            lambda f: edit(f, model={"name": "mine"}),
            "its model mine is not in MODELS; first load the config file that adds it",
        ),
    ],
)  # fmt: skip
def test_a_folder_that_is_no_run_is_named(run, tmp_path, damage, message):
    damage(run.save(tmp_path / "run"))
    with pytest.raises(UserError) as error:
        load(tmp_path / "run")
    text = str(error.value).removeprefix(str(tmp_path / "run"))
    assert text.lstrip("/: ").startswith(message)


# --- Devices --------------------------------------------------------------------------------------


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
