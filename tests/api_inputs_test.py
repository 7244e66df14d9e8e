"""fit on labels and inputs of any type: against each other, against numpy, and in their units."""

import functools
import json

import jax
import numpy as np
import pytest
from toy_fits import PLAIN, quick, toy

from reweight_jax import Model, UserError, fit
from reweight_jax.data.examples import LazyInputs


@functools.cache
def plain_probabilities():
    return quick(**PLAIN).predict(toy()[0][0])


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
    run = quick(None, (x.tolist(), encode(y)), clean=clean, **PLAIN)
    assert run.classes == classes
    assert [type(name) for name in run.classes] == [type(name) for name in classes]
    np.testing.assert_array_equal(run.predict(x), plain_probabilities())


def test_pandas_columns_are_taken_by_their_names():
    pd = pytest.importorskip("pandas")
    (x, y, _), (clean_x, clean_y) = toy()
    frame = pd.DataFrame(x, columns=["width", "height"], index=np.arange(200)[::-1])
    clean = pd.DataFrame(clean_x, columns=["width", "height"])[["height", "width"]]
    series = pd.Series(y).map({0: "no", 1: "yes"})
    clean_series = pd.Series(clean_y).map({0: "no", 1: "yes"})
    run = quick(None, (frame, series), clean=(clean, clean_series), **PLAIN)
    assert run.columns == ("width", "height")
    np.testing.assert_allclose(run.predict(x), plain_probabilities(), rtol=1e-5)
    swapped = frame[["height", "width"]].assign(other="not read")
    np.testing.assert_array_equal(run.predict(swapped), run.predict(x))
    with pytest.raises(UserError, match="predict: inputs: lacks the column height"):
        run.predict(frame[["width"]])
    with pytest.raises(UserError, match="fit: clean_input: lacks the column width"):
        quick(None, (frame, series), clean=(clean[["height"]], clean_y))


@pytest.mark.parametrize("library", ["polars", "pyarrow"])
def test_columns_of_other_tables_are_taken_by_their_names(library):
    module = pytest.importorskip(library)
    make = {"polars": "DataFrame", "pyarrow": "table"}[library]
    (x, y, _), (clean_x, clean_y) = toy()

    def table(x, names=("width", "height")):
        return getattr(module, make)({name: x[:, "wh".index(name[0])] for name in names})

    options = {"clean": (table(clean_x, ("height", "width")), clean_y)}
    run = quick(None, (table(x), y), **options, **PLAIN)
    assert run.columns == ("width", "height")
    np.testing.assert_allclose(run.predict(x), plain_probabilities(), rtol=1e-5)
    np.testing.assert_array_equal(run.predict(table(x, ("height", "width"))), run.predict(x))
    with pytest.raises(UserError, match="predict: inputs: lacks the column height"):
        run.predict(table(x, ["width"]))


def test_numbers_of_other_forms_are_those_of_the_usual_one():
    (x, y, _), (clean_x, clean_y) = toy()
    swapped, half = (
        quick(None, (x.astype(dtype), y), clean=(clean_x.astype(dtype), clean_y), **PLAIN)
        for dtype in (">f4", np.float16)
    )
    np.testing.assert_allclose(swapped.predict(x), plain_probabilities(), rtol=1e-5)
    assert half.predict(x[:1]).shape == (1, 2)
    with pytest.raises(UserError, match="predict: inputs: row 1 is too large for float16"):
        half.predict(np.array([[0, 1], [0, 1e6]], np.float32))


def test_whole_numbers_with_names_are_features_and_no_tokens():
    pd = pytest.importorskip("pandas")
    (x, y, _), (clean_x, clean_y) = toy()
    frame, clean = (pd.DataFrame((10 * a).round().astype(int), columns=["age", "sum"])
                    for a in (x, clean_x))  # fmt: skip
    floats = (frame.to_numpy(float), y), (clean.to_numpy(float), clean_y)
    of_names = quick(None, (frame, y), clean=(clean, clean_y), **PLAIN)
    of_floats = quick(None, floats[0], clean=floats[1], **PLAIN)
    np.testing.assert_array_equal(of_names.predict(frame), of_floats.predict(floats[0][0]))
    small = (frame - frame.min()).clip(0, 255).astype("uint8")
    of_bytes = quick(None, (small, y), clean=(small[:30], clean_y), **PLAIN)
    assert of_bytes.predict(small).shape == (200, 2)
    with pytest.raises(UserError, match="train_input: column 0 is .*too little for float32"):
        quick(
            None, (frame * 0 + 1_700_000_000 + np.arange(200)[:, None], y), clean=(clean, clean_y)
        )
    floats = frame * 1.0
    floats.iloc[7, 1] = np.nan
    with pytest.raises(UserError, match="train_input: row 7, column sum, has a value that is mis"):
        quick(None, (floats, y), clean=(clean, clean_y))
    days = frame.assign(sum=pd.Timestamp("2026-01-01"))
    with pytest.raises(UserError, match="train_input: row 0, column sum is Timestamp.*; encode"):
        quick(None, (days, y), clean=(clean, clean_y))
    frame = frame.astype("Int64").astype(object)
    frame.iloc[5, 1] = pd.NA
    with pytest.raises(UserError, match="fit: train_input: row 5, column sum has a value that is"):
        quick(None, (frame, y), clean=(clean, clean_y))
    frame["sum"] = pd.Categorical(["north", "south"] * 100)
    with pytest.raises(UserError, match="train_input: row 0, column sum is 'north'; encode it as"):
        quick(None, (frame, y), clean=(clean, clean_y))


def test_mistakes_in_the_data_are_said_before_and_after(capsys):
    (x, y, _), (clean_x, clean_y) = toy()
    both = np.concatenate([x[:3], clean_x]), np.concatenate([1 - y[:3], clean_y])
    run = quick(None, (x, y), clean=both, test=(x[50:90], y[50:90]), progress=True)
    told = (
        "3 of 33 clean examples are in the training set too, with another label (there: row 0, 1, "
        "2). One of the two is wrong.",
        "40 of 40 test examples are in the training set too. Leave them out there, or their scores "
        "are better than on new data.",
    )
    assert run.result["health"][:2] == [*told]
    assert capsys.readouterr().err.startswith("\n".join(told))
    # Without a bar it is only in the result.
    quiet = quick(None, (x, y), clean=both, progress=False, method="clean_only")
    assert quiet.result["health"][0] == told[0] and not capsys.readouterr().err


@pytest.mark.parametrize("devices", [2, [0], "cpu", [jax.devices()[0]] * 2])
def test_devices_that_are_none(devices):
    (x, y, _), clean = toy()
    with pytest.raises(UserError, match="fit: devices: must be different devices of JAX"):
        fit(None, (x, y), clean=clean, devices=devices)


def test_a_clean_set_that_shall_be_drawn_needs_a_size():
    (x, y, _), _ = toy()
    with pytest.raises(UserError, match="config.data.num_clean: 0; how many trusted examples"):
        fit(None, (x, y), data={"labels_are_right": True, "num_clean": 0})


def test_objects_that_are_no_numbers_are_named():
    (_, y, _), clean = toy()
    texts = np.array([["x"], [1]] * 100, object)
    for inputs, name in ((texts, "train_input"), ({"k": texts[:, 0]}, "train_input.k")):
        with pytest.raises(UserError, match=f"fit: {name}: row 0 is 'x'; encode it as a number"):
            quick(None, (inputs, y), clean=clean)
    texts = np.array([[None], ["x"]] * 100, object)  # None is NaN, which is told after text
    with pytest.raises(UserError, match="fit: train_input: row 1 is 'x'; encode it as a number"):
        quick(None, (texts, y), clean=clean)
    ragged = np.empty(200, object)
    ragged[:] = [[1, 2], [[1, 2], 3]] * 100
    with pytest.raises(UserError, match="fit: train_input: not numbers"):
        quick(None, (ragged, y), clean=clean)


def test_a_column_that_float32_cannot_tell_apart_is_an_error():
    (x, y, _), (clean_x, clean_y) = toy()
    far = x * [30, 1] + [1.7e9, 0]
    with pytest.raises(UserError, match="train_input: column 0 is .*too little for float32; sub"):
        quick(None, (far, y), clean=(clean_x * [30, 1] + [1.7e9, 0], clean_y))


def test_columns_of_labels_are_taken_by_their_names():
    pd = pytest.importorskip("pandas")
    x = toy()[0][0]
    tags = pd.DataFrame({"left": x[:, 0] < 3, "low": x[:, 1] < -70}).astype(int)
    options = PLAIN | {"task": "multi_label", "calibration": (x[50:], tags[50:])}
    run = quick(None, (x[:50], tags[:50]), clean=(x, tags), **options)
    options["calibration"] = (x[50:], tags[["low", "left"]][50:])
    again = quick(None, (x[:50], tags[:50]), clean=(x, tags[["low", "left"]]), **options)
    assert again.result["last"] == run.result["last"] and run.classes == ("left", "low")
    with pytest.raises(UserError, match="fit: clean_label: lacks the column low"):
        quick(None, (x, tags), clean=(x, tags[["left"]].assign(other=0)), task="multi_label")
    twice = pd.concat([tags, tags[["low"]]], axis=1)
    for name, train in (("label", (x, twice)), ("input", (twice, tags))):
        with pytest.raises(UserError, match=f"fit: train_{name}: two columns have the name low"):
            quick(None, train, clean=(x, tags), task="multi_label")
    # The name of a single column of labels says nothing.
    series = tags[["left"]]
    quick(None, (x, series), clean=(x, series.rename(columns={"left": "right"})), **PLAIN)


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


@pytest.mark.slow
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


def test_lazy_inputs_are_taken_wherever_arrays_are():
    rng = np.random.default_rng(0)
    tokens, x, label = (
        rng.integers(0, 9, (40, 5)).astype(np.int32),
        rng.random((40, 2)),
        toy()[0][1],
    )
    fields = PLAIN | {
        "num_steps": 1,
        "model_fields": {"features": 8, "num_heads": 1, "hidden": (4,)},
    }
    affine = Model(
        lambda key, inputs: ({"w": np.zeros((2, 2), np.float32)}, {}),
        lambda params, state, inputs, *, train, key: (inputs["a"] @ params["w"], state),
    )
    for train, test in (
        (LazyInputs(tokens), tokens),
        (tokens, LazyInputs(tokens)),
        ({"a": LazyInputs(np.float32(x))}, {"a": np.float32(x)}),
    ):
        model = affine if isinstance(train, dict) else None
        run = quick(model, (train, label[:40]), test=(test, label[:40]), **fields)
        assert run.result["last"]["test_loss"] > 0
    with pytest.raises(UserError, match="test_input: is float64, but train_input is float32"):
        quick(None, (np.float32(x), label[:40]), test=(LazyInputs(x), label[:40]), **fields)


def test_images_train_a_small_cnn():
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, size=60)
    image = rng.integers(0, 100, size=(60, 8, 8, 1)) + 100 * label[:, None, None, None]
    image = image.astype(np.uint8)
    clean = (image[:20], label[:20])
    run = quick(None, (image, label), clean=clean, num_steps=20, learning_rate=0.01)
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
        ({"labels": {"false_alarm": 1}}, "labels.false_alarm; did you mean labels=dict(false_alar"),
        ({"labels": {"false_alarm_rate": 2.0}}, "false_alarm_rate: '2'; must be above 0 and"),
    ],
)
def test_a_mistake_is_one_line(fields, message, tmp_path):
    with pytest.raises(UserError) as error:
        quick(workdir=tmp_path / "run", **{"clean": toy()[1]} | fields)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_numbers_of_numpy_are_taken(tmp_path):
    fields = {"num_steps": np.int64(2), "learning_rate": np.float32(0.5)}
    fields |= {"lr_drop_steps": np.array([1]), "model_fields": {"hidden": [np.int32(4)]}}
    run = quick(workdir=str(tmp_path / "run"), **PLAIN, **fields)
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
        (np.ma.array([[1.0, 9]], mask=[[0, 1]]), "predict: inputs: row 0 has a value that is miss"),
        ({"x": np.ones((1, 2))}, "predict: inputs: must be a dict of arrays if and only if the"),
        (np.ones((1, 2), np.uint8), "predict: inputs: is uint8, but the training set is float32"),
    ],
)
def test_inputs_unlike_the_training_set_are_refused(toy_run, inputs, message):
    with pytest.raises(UserError, match=message):
        toy_run.predict(inputs)


def test_what_is_no_table_of_inputs_is_refused():
    pd = pytest.importorskip("pandas")
    (x, y, _), clean = toy()
    with pytest.raises(UserError, match="fit: train_input: shape .*must be .N, "):
        quick(None, (pd.Series(x[:, 0]), y), clean=clean)
    with pytest.raises(UserError, match="fit: train_input.a: a table in a dict; give an array"):
        quick(None, ({"a": pd.DataFrame(x)}, y), clean=clean)


@pytest.mark.parametrize("dtype", [np.int64, np.uint16])
def test_token_ids_that_have_no_embedding_are_refused(dtype):
    tokens, y = np.arange(80).reshape(16, 5) % 9, np.arange(16) % 2
    tokens, size = tokens.astype(dtype), {"num_layers": 1, "features": 8, "vocabulary": 10}
    with pytest.raises(UserError, match="vocabulary: test_input: token ids 4..12; must be in 0..9"):
        test = np.array([[4, 5, 6, 7, 12]], dtype), y[:1]
        quick(None, (tokens, y), clean=(tokens, y), test=test, model_fields=size)
    run = quick(None, (tokens, y), clean=(tokens, y), model_fields=size, **PLAIN)
    with pytest.raises(UserError, match="predict: inputs: token ids 10..18; must be in 0..9"):
        run.predict(tokens + 10)
    padded = tokens.astype(int) - 1
    with pytest.raises(UserError, match="vocabulary: train_input: token ids -1..7; must be in"):
        quick(None, (padded, y), clean=(padded, y))


def test_rates_are_given_as_a_dict():
    run = quick(**PLAIN, labels={"false_alarm_rate": 0.02})
    assert run.config.labels.false_alarm_rate == 0.02


def test_the_notes_of_a_run_have_the_names_of_its_classes():
    (x, y, _), (clean_x, _) = toy()
    names = np.array(["cat", "dog", "owl"])
    label = names[np.where(x[:, 1] > -60, 2, y)]
    options = PLAIN | {"clean": (x[:30], label[:30]), "num_steps": 60}
    run = quick(None, (x, label), calibration=(clean_x, names[:2].repeat(15)), **options)
    assert any("No calibration example of class owl:" in t for t in run.result["labels"]["notes"])
