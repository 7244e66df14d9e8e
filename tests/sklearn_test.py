"""The scikit-learn estimators: scikit-learn's own checks, and what is special about them."""

import pickle
import unicodedata

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.metrics import accuracy_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks
from toy_fits import PAPERS

from reweight_jax import UserError
from reweight_jax.sklearn import ReweightClassifier, ReweightRegressor

SMALL = {"num_steps": 50, "batch_size": 20, "hidden": (32,), "learning_rate": 0.1}
SMALL["fields"] = PAPERS  # one phase: one program to compile
PLAIN = SMALL | {"method": "baseline"}


class TrustsItself(ReweightClassifier):
    """The checks of scikit-learn give no clean set: here the training set is its own."""

    def fit(self, X, y):
        return super().fit(X, y, X, y)


class TrustsItselfRegressor(ReweightRegressor):
    def fit(self, X, y):
        return super().fit(X, y, X, y)


# No check is expected to fail; those of pandas and of the array API are skipped without these.
@pytest.mark.slow
@parametrize_with_checks(
    [
        ReweightClassifier(**PLAIN),
        ReweightRegressor(**PLAIN),
        TrustsItself(**SMALL),
        TrustsItselfRegressor(**SMALL | {"learning_rate": 0.02, "num_steps": 200}),
    ]
)
def test_scikit_learn_takes_it_for_an_estimator(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def noisy():
    """(X, y with 3 labels in 10 wrong, which), (X_clean, y_clean)."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(230, 3))
    right, wrong = np.where(x[:, 0] > 0, "left", "right"), rng.random(200) < 0.3
    flipped = np.where(right == "left", "right", "left")[:200]
    return (x[:200], np.where(wrong, flipped, right[:200]), wrong), (x[200:], right[200:])


@pytest.fixture(scope="module")
def fitted(noisy):
    (x, y, _), clean = noisy
    fields = SMALL | {"num_steps": 100, "fields": None}  # it warms up and settles
    return ReweightClassifier(random_state=0, **fields).fit(x, y, *clean)


def test_wrong_labels_weigh_less(noisy, fitted):
    (x, y, wrong), _ = noisy
    right = np.where(x[:, 0] > 0, "left", "right")
    assert fitted.sample_weight_.shape == (200,)
    assert fitted.sample_weight_.mean() == pytest.approx(1, abs=1e-5)  # 10 epochs: equal visits
    assert fitted.sample_weight_[wrong].mean() < 0.7 * fitted.sample_weight_[~wrong].mean()
    assert accuracy_score(right, fitted.predict(x)) > 0.9
    assert list(fitted.classes_) == ["left", "right"]
    assert fitted.n_features_in_ == 3
    p = fitted.predict_proba(x)
    np.testing.assert_allclose(p.sum(1), 1, rtol=1e-6)
    np.testing.assert_array_equal(fitted.classes_[p.argmax(1)], fitted.predict(x))
    assert fitted.result_["num_steps"] == 100


def test_a_baseline_also_trains_on_the_clean_set(noisy):
    (x, y, _), (clean_x, clean_y) = noisy
    model = ReweightClassifier(random_state=0, **PLAIN).fit(x, y, clean_x, clean_y)
    visits = model.run_.examples["visits"]
    assert len(visits) == 230
    assert visits.sum() == 50 * 20
    np.testing.assert_array_equal(model.sample_weight_, 1)
    # A step less than an epoch: those that no batch held have no weight.
    model = ReweightClassifier(**PLAIN | {"num_steps": 5}).fit(x, y)
    assert np.isnan(model.sample_weight_).sum() == 100


def test_a_class_that_only_the_clean_set_has(noisy):
    (x, y, _), (clean_x, clean_y) = noisy
    clean_y = np.where(clean_x[:, 1] > 1, "above", clean_y)
    with pytest.warns(UserWarning, match="y_clean: no example of y has the label above; check"):
        model = ReweightClassifier(random_state=0, **SMALL).fit(x, y, clean_x, clean_y)
    assert list(model.classes_) == ["above", "left", "right"]
    assert model.predict_proba(x).shape == (200, 3)


def test_the_linear_model_of_one_full_step_is_that_of_numpy(noisy):
    """hidden=() and one step on all examples: logits are the first ones plus a known step."""
    (x, y, _), _ = noisy
    x, code = x.astype(np.float32), (y == "right").astype(int)
    steps = [
        ReweightClassifier(
            method="baseline", num_steps=n, batch_size=200, hidden=(), learning_rate=0.5,
            standardize=False, random_state=3,
            fields={"optimizer": "sgd", "momentum": 0.0, "lr_schedule": "drops"},
        ).fit(x, y)
        for n in (1, 2)
    ]  # fmt: skip
    log_odds = [np.diff(np.log(model.predict_proba(x)))[:, 0] for model in steps]
    p = steps[0].predict_proba(x)
    gradient = np.c_[x, np.ones(200)].T @ (p - np.eye(2)[code]) / 200
    change = -0.5 * np.c_[x, np.ones(200)] @ (gradient[:, 1] - gradient[:, 0])
    np.testing.assert_allclose(log_odds[1] - log_odds[0], change, atol=1e-5)


def test_without_a_clean_set_reweighting_is_refused(noisy):
    (x, y, _), (clean_x, clean_y) = noisy
    with pytest.raises(ValueError, match="X_clean, y_clean: method='reweight' needs examples"):
        ReweightClassifier(**SMALL).fit(x, y)
    with pytest.raises(ValueError, match="method='clean_only' needs examples"):
        ReweightRegressor(**SMALL | {"method": "clean_only"}).fit(x, x[:, 0])
    with pytest.raises(ValueError, match="X_clean, y_clean: give both or neither"):
        ReweightClassifier(**SMALL).fit(x, y, clean_x)


@pytest.mark.parametrize(
    ("fields", "clean", "message"),
    [
        ({"method": "reweigh"}, slice(None), "method: unknown name 'reweigh'; valid: "),
        ({"num_steps": 0}, slice(None), "config.num_steps: 0; must be at least 1"),
        ({"fields": {"optimiser": "adam"}}, slice(None), "did you mean optimizer"),
        ({"model": 3}, slice(None), "model: int is not a Flax"),
        ({"fields": {"seed": 1}}, slice(None), "fields: seed is set by the parameters of Rewei"),
        ({"fields": {"data": {"classes": (1, 0)}}}, slice(None), "classes: the classes are those"),
        ({}, slice(0, 20), "inconsistent numbers of samples"),
    ],
)
def test_a_mistake_is_named(noisy, fields, clean, message):
    (x, y, _), (clean_x, clean_y) = noisy
    with pytest.raises(ValueError, match=message):
        ReweightClassifier(**SMALL | fields).fit(x, y, clean_x[clean], clean_y)


def test_labels_that_cannot_be_are_named(noisy):
    (x, y, _), (clean_x, clean_y) = noisy
    with pytest.raises(ValueError, match="only one class, .*left"):
        ReweightClassifier(**PLAIN).fit(x, np.full(200, "left"))
    with pytest.raises(ValueError, match="Mix of label input types"):
        ReweightClassifier(**SMALL).fit(x, y, clean_x, np.zeros(30, int))
    with pytest.raises(ValueError, match="Unknown label type: continuous"):
        ReweightClassifier(**PLAIN).fit(x, x[:, 0])
    with pytest.raises(ValueError, match="X has 2 features, but ReweightClassifier is expecting 3"):
        ReweightClassifier(**SMALL).fit(x, y, clean_x[:, :2], clean_y)


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA])
def test_a_row_without_a_label_is_named(noisy, missing):
    (x, y, _), (clean_x, clean_y) = noisy
    y, clean_y = y.astype(object), clean_y.astype(object)
    clean_y[3] = missing
    with pytest.raises(ValueError, match="y_clean: row 3 has no label"):
        ReweightClassifier(**SMALL).fit(x, y, clean_x, clean_y)
    with pytest.raises(ValueError, match="y: row 3 has no label"):
        ReweightClassifier(**PLAIN).fit(clean_x, pd.Series(clean_y))
    clean_x = np.where(clean_x > 9, 0, clean_x)
    clean_x[2, 1] = np.nan
    with pytest.raises(ValueError, match="Input X_clean contains NaN"):
        ReweightClassifier(**SMALL).fit(x, y, clean_x, noisy[1][1])


FEW = SMALL | {"num_steps": 3, "hidden": 8, "random_state": 0}


def written(label):
    """A label as `fit` writes it."""
    return unicodedata.normalize("NFC", str(label)).removesuffix(".0")


def given_labels(model):
    table = model.run_.suspects()
    return [str(table["given_label"][i]) for i in np.argsort(table["index"])]


@pytest.mark.parametrize(
    "names",
    [(1, 2), ("good", "bad"), (True, False), (3.0, 1.0), ("e\u0301", "z\u0301a"), ("1", "10")],
)
def test_the_run_has_the_users_labels(noisy, names):
    """Two of the strings have accents as characters of their own, which sort otherwise."""
    (x, y, _), (clean_x, clean_y) = noisy
    y, clean_y = (np.where(labels == "left", *names) for labels in (y, clean_y))
    model = ReweightClassifier(**FEW).fit(x, y.astype(object), clean_x, clean_y)
    assert sorted(model.classes_) == sorted(names)
    assert given_labels(model) == [written(label) for label in y.tolist()]
    columns = list(map(str, model.run_.classes))
    order = [columns.index(written(name)) for name in model.classes_.tolist()]
    np.testing.assert_allclose(model.predict_proba(x), model.run_.predict(x)[:, order], atol=1e-6)


@pytest.mark.parametrize("types", [(int, bool), (bool, int), (bool, float), ("boolean", bool)])
def test_labels_may_be_of_several_types(noisy, types):
    (x, y, _), (clean_x, clean_y) = noisy
    y, clean_y = (
        pd.Series(labels == "left").astype(kind)
        for labels, kind in zip((y, clean_y), types, strict=True)
    )
    model = ReweightClassifier(**FEW).fit(x, y, clean_x, clean_y)
    is_left = [label in ("1", "True") for label in given_labels(model)]
    np.testing.assert_array_equal(is_left, y.astype(bool))


def test_labels_that_only_look_alike_are_an_error(noisy):
    (x, y, _), _ = noisy
    y = np.where(y == "left", "\u00e9", "e\u0301")
    y[:20] = "other"
    with pytest.raises(ValueError, match="y: two labels look the same"):
        ReweightClassifier(**PLAIN).fit(x, y)


def test_the_run_takes_columns_by_their_names(noisy):
    (x, y, _), (clean_x, clean_y) = noisy
    x, clean_x = (pd.DataFrame(array, columns=list("abc")) for array in (x, clean_x))
    model = ReweightClassifier(**FEW).fit(x, y, clean_x, clean_y)
    expected = model.predict_proba(x)
    np.testing.assert_allclose(model.run_.predict(x[["c", "a", "b"]]), expected, atol=1e-6)
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(x[["c", "a", "b"]])
    with pytest.raises(ValueError, match="feature names should match"):
        ReweightClassifier(**FEW).fit(x, y, clean_x[["c", "a", "b"]], clean_y)


def test_ten_rows_and_a_larger_batch(noisy):
    (x, y, _), clean = noisy
    fields = SMALL | {"batch_size": 100, "num_steps": 3}
    model = ReweightClassifier(random_state=0, **fields | {"fields": None})  # also in phases
    assert model.fit(x[:10], y[:10], *clean).predict(x).shape == (200,)
    model = ReweightClassifier(random_state=0, **fields)
    model.fit(x[:10], y[:10], *clean)
    np.testing.assert_array_equal(model.run_.examples["visits"], 30)
    assert model.sample_weight_.mean() == pytest.approx(1, abs=1e-5)


def test_a_pickle_predicts_without_the_folder(noisy, fitted, tmp_path):
    x = noisy[0][0]
    content = pickle.dumps(fitted)
    again = pickle.loads(content)
    np.testing.assert_array_equal(again.predict_proba(x), fitted.predict_proba(x))
    np.testing.assert_array_equal(again.sample_weight_, fitted.sample_weight_)
    again.run_.workdir = tmp_path / "gone"  # as in another process
    for call in (again.run_.suspects, lambda: again.run_.save(tmp_path / "copy")):
        with pytest.raises(UserError, match="folder of the run is gone; .*save.. it before"):
            call()
    with pytest.raises(NotFittedError):
        clone(fitted).predict(x)


@pytest.mark.slow
def test_it_works_in_a_grid_search_and_a_pipeline(noisy):
    (x, y, _), (clean_x, clean_y) = noisy
    search = GridSearchCV(
        ReweightClassifier(random_state=0, **SMALL), {"learning_rate": [1e-6, 0.1]}, cv=2
    )
    search.fit(x, y, X_clean=clean_x, y_clean=clean_y)
    assert search.best_params_ == {"learning_rate": 0.1}
    assert len(search.best_estimator_.sample_weight_) == 200
    pipeline = make_pipeline(StandardScaler(), ReweightClassifier(random_state=0, **PLAIN))
    direct = ReweightClassifier(random_state=0, **PLAIN).fit(x, y)
    np.testing.assert_allclose(
        pipeline.fit(x, y).predict_proba(x), direct.predict_proba(x), atol=1e-4
    )


def test_regression_of_several_targets_ignores_wrong_ones():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(230, 2))
    y = 100 + 10 * x @ np.array([[1.0, 0.5], [-2.0, 1.0]])
    wrong = rng.random(200) < 0.3
    noisy = y[:200] + np.where(wrong, 80, 0)[:, None]
    fields = SMALL | {"hidden": (), "num_steps": 300, "learning_rate": 0.01, "random_state": 0}
    plain, reweighted = (
        ReweightRegressor(**fields, method=method).fit(x[:200], noisy, x[200:], y[200:])
        for method in ("baseline", "reweight")
    )
    errors = [np.abs(model.predict(x) - y).mean() for model in (plain, reweighted)]
    assert errors[0] > 15  # about 0.3 * 80
    assert errors[1] < 8
    assert reweighted.sample_weight_[wrong].mean() < 0.3 * reweighted.sample_weight_[~wrong].mean()
    assert reweighted.predict(x).dtype == np.float64
    assert reweighted.predict(x).shape == (230, 2)
    with pytest.raises(UserError, match="clean_label: a row has shape"):
        ReweightRegressor(**fields).fit(x[:200], noisy, x[200:], y[200:, 0])


@pytest.mark.parametrize("estimator", [ReweightClassifier, ReweightRegressor])
def test_a_column_that_float32_cannot_tell_apart_is_an_error(estimator):
    x = np.random.default_rng(0).normal(size=(60, 2)) * [30, 1] + [1.7e9, 0]
    y = np.arange(60) % 2
    with pytest.raises(ValueError, match="train_input: column 0 is .*too little for float32"):
        estimator(num_steps=2).fit(x, y, x[:20], y[:20])
