"""A stand-in for a trusted set."""

import jax
import numpy as np
import pytest
from toy_fits import PAPERS, QUIET

from reweight_jax import UserError, fit
from reweight_jax.confident import confident_rows
from reweight_jax.data.examples import LazyInputs

SMALL = QUIET | PAPERS | {"devices": jax.devices()[:1], "batch_size": 20}
SMALL |= {"num_steps": 40, "learning_rate": 0.05, "model_fields": {"hidden": (8,)}}


def test_the_surest_of_each_class_that_also_win():
    """Four of each class, two asked for: a probability below another class's does not count."""
    label = np.repeat([0, 1], 4)
    p = np.array([0.9, 0.6, 0.8, 0.3, 0.45, 0.99, 0.2, 0.7])  # of the own label
    table = np.stack([np.where(label == 0, p, 1 - p), np.where(label == 1, p, 1 - p)], 1)
    seen = []

    def predict(train, held_out):
        assert not set(train) & set(held_out) and len(train) + len(held_out) == 8
        seen.extend(held_out)
        return table[held_out]

    rows = confident_rows(predict, label, 2, 4, seed=0)
    assert sorted(seen) == list(range(8))
    np.testing.assert_array_equal(rows, [0, 2, 5, 7])
    np.testing.assert_array_equal(confident_rows(predict, label, 2, 100, seed=0), [0, 1, 2, 5, 7])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pandas", "polars", "pyarrow", "lazy", "dict"])
def test_inputs_in_every_form_give_what_an_array_gives(kind):
    x = np.random.default_rng(0).integers(0, 9, (60, 2))
    y = np.where(x[:, 0] > 4, "right", "left")
    columns, array = {"age": x[:, 0], "sum": x[:, 1]}, x.astype(np.float32)
    if kind in ("lazy", "dict"):
        inputs = LazyInputs(array) if kind == "lazy" else {"a": array}
    else:
        module = pytest.importorskip(kind)
        inputs = module.table(columns) if kind == "pyarrow" else module.DataFrame(columns)
    model = (lambda key, inputs: ({"w": np.zeros((2, 2), np.float32)}, {}), linear)
    fields = {"data": {"num_clean": 10, "standardize": False}, "num_steps": 20}
    runs = [fit(model, (each, y), clean="confident", **SMALL | fields) for each in (inputs, array)]
    np.testing.assert_array_equal(*(run.examples["weight"] for run in runs))


def linear(params, model_state, inputs, *, train, key):
    (array,) = jax.tree.leaves(inputs)
    return array @ params["w"], model_state


def test_under_uniform_noise_it_helps_without_a_trusted_set():
    """On the mean of three draws: one of 400 points scatters by 0.03, and with rounding too."""
    accuracy = []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(400, 2))
        right = np.where(x[:, 0] > 0, "right", "left")
        wrong = rng.random(400) < 0.3
        y = np.where(wrong, np.where(right == "left", "right", "left"), right)
        run = fit(None, (x, y), clean="confident", data={"num_clean": 40}, **SMALL)
        accuracy.append(np.mean(np.array(run.classes)[run.predict(x).argmax(1)] == right))
        assert run.result["labels"]["rule"] == "margin"  # no p-values
        assert wrong[run.suspects()["index"][:50]].mean() > 0.8
        np.testing.assert_array_equal(run.examples["index"], np.arange(400))
    assert np.mean(accuracy) > 0.9, accuracy


@pytest.mark.parametrize("clean, task", [("sure", "classification"), ("confident", "regression")])
def test_what_it_is_not_for(clean, task):
    x = np.zeros((40, 2))
    with pytest.raises(UserError, match="fit: clean: .*must be a pair"):
        fit(None, (x, x[:, 0]), clean=clean, task=task, **SMALL)


X = np.random.default_rng(0).normal(size=(40, 2))
Y = np.where(X[:, 0] > 0, "right", "left")


@pytest.mark.parametrize(
    "train, fields, message",
    [
        ((X[:4], Y[:4]), {}, "4 examples; needs at least 5"),
        ((X, [None, *Y[1:]]), {}, "fit: train_label: row 0 has no label"),
        (None, {}, "fit: train: must be a pair"),
        ((X, Y), {"data": 3}, "fit: data: 3; must be a dict"),
        ((X, Y), {"data": {"num_clean": "5"}}, "config.data.num_clean: '5'; must be of the type"),
        ((X, Y), {"data": {"num_clean": -1}}, "num_clean: -1; clean=.confident. needs at least 1"),
        ((X, Y), {"test": (np.ones((3, 5)), Y[:3])}, "test_input: a row has shape"),
        ((X, Y), {"calibration": 3}, "fit: calibration: must be a pair"),
        ((X, Y), {"epsilon_over": "nothing"}, "config.epsilon_over"),
        ((X, Y), {"model": "mpl"}, "config.model.name: 'mpl'; unknown name"),
        ((X, Y), {"data": {"num_clean": 0}}, "num_clean: 0; clean=.confident. needs at least 1"),
        ((X, Y), {"retrain": "some"}, "config.retrain: 'some'; unknown name"),
        ((X, Y), {"data": {"corrections": "a.csv"}}, "data: corrections cannot be used with"),
        ((X, Y), {"data": {"num_train": 30}}, "data: num_train cannot be used with"),
        ((X, Y), {"data": {"num_calibration": 5}}, "data: num_calibration cannot be used with"),
    ],
)
def test_mistakes_are_one_line_before_any_training(train, fields, message, monkeypatch):
    monkeypatch.setattr("reweight_jax.api.confident_rows", None)
    fields = dict(fields)
    with pytest.raises(UserError, match=message) as error:
        fit(fields.pop("model", None), train, clean="confident", **SMALL | fields)
    assert "\n" not in str(error.value)


def test_later_phases_and_a_column_of_labels_are_for_the_run_alone(monkeypatch):
    given = []

    def rows(predict, label, num_classes, count, seed):
        assert label.tolist() == (Y == "right").astype(int).tolist() and (count, seed) == (10, 3)
        given.append(predict(np.arange(30), np.arange(30, 40)))
        return np.arange(0, 40, 4)

    monkeypatch.setattr("reweight_jax.api.confident_rows", rows)
    fields = {"seed": 3, "finetune_from": "last", "finetune_steps": 2, "retrain": "drop"}
    data = {"num_clean": 10, "num_calibration": 0, "labels_are_right": True}
    run = fit(None, (X, Y[:, None]), clean="confident", data=data, **SMALL | fields)
    assert given[0].shape == (10, 2)
    assert {"finetuned_last", "retrained"} <= run.result.keys()
    assert run.classes == ("left", "right")
