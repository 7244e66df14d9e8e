"""A user's npz and CSV files, read as they are, or refused in one line that names the place."""

import numpy as np
import pytest
from PIL import Image

from configs import own_data
from reweight_jax.data.examples import is_lazy
from reweight_jax.data.files import read_inputs
from reweight_jax.data.splits import load
from reweight_jax.errors import UserError


def load_npz(path, task="classification", **fields):
    config = own_data.get_config("npz")
    config.task = task
    config.data.update({"path": str(path)} | fields)
    return load(config, 0)


def load_csv(path, task="classification", **fields):
    config = own_data.get_config("csv")
    config.task = task
    config.data.update({"path": str(path)} | fields)
    return load(config, 0)


# --- npz ------------------------------------------------------------------------------------------


def arrays(**changes):
    rng = np.random.default_rng(0)
    values = {
        "train_input": rng.integers(0, 256, (40, 6, 5)).astype(np.uint8),
        "train_label": np.arange(40) % 2,
        "test_input": rng.integers(0, 256, (10, 6, 5)).astype(np.uint8),
        "test_label": np.arange(10) % 2,
    } | changes
    return {name: value for name, value in values.items() if value is not None}


def test_npz_parts_are_the_arrays(tmp_path):
    rng = np.random.default_rng(1)
    parts = {}
    for i, split in enumerate(("train", "clean", "calibration", "hyper_val", "test")):
        parts[f"{split}_input"] = rng.normal(size=(10 + i, 3)).astype(np.float32) * 1000
        parts[f"{split}_label"] = np.resize(["cat", "dog"], 10 + i)
    np.savez(tmp_path / "a.npz", **parts)
    data = load_npz(tmp_path / "a.npz")
    assert data.classes == ("cat", "dog") and data.ids is None and data.columns == ()
    for split, examples in data.splits._asdict().items():
        np.testing.assert_array_equal(examples.inputs, parts[f"{split}_input"])
        names = np.array(data.classes)[examples.label]
        np.testing.assert_array_equal(names, parts[f"{split}_label"])


def test_npz_of_old_names_dicts_and_compression(tmp_path):
    old = arrays()
    old = {name.replace("input", "image"): value for name, value in old.items()}
    np.savez_compressed(tmp_path / "old.npz", **old)
    splits = load_npz(tmp_path / "old.npz").splits
    np.testing.assert_array_equal(splits.train.inputs[..., 0], old["train_image"])
    assert splits.train.inputs.shape == (40, 6, 5, 1)
    values = {
        "train_input.ids": np.arange(12).reshape(4, 3),
        "train_input.mask": np.ones((4, 3), bool),
    }
    np.savez(tmp_path / "dict.npz", **values, train_label=[0, 1, 0, 1])
    inputs = load_npz(tmp_path / "dict.npz").splits.train.inputs
    assert set(inputs) == {"ids", "mask"} and inputs["ids"].dtype == np.int32
    np.testing.assert_array_equal(inputs["ids"], values["train_input.ids"])


def test_npz_of_tags_and_values(tmp_path):
    inputs = np.arange(8.0).reshape(4, 2)
    tags = np.array([[1, 0, -1], [0, 1, 1], [0, 0, 0], [1, -1, 1]])
    np.savez(tmp_path / "tags.npz", train_input=inputs, train_label=tags)
    data = load_npz(tmp_path / "tags.npz", "multi_label")
    np.testing.assert_array_equal(data.splits.train.label, tags)
    np.savez(tmp_path / "values.npz", train_input=inputs, train_label=[0.5, 2, -1, 3])
    data = load_npz(tmp_path / "values.npz", "regression")
    np.testing.assert_array_equal(data.splits.train.label, [0.5, 2, -1, 3])
    assert data.num_outputs == 1 and data.splits.clean is None


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"train_label": None}, "no array train_label; found: train_input, test_input, test_label"),
        ({"test_input": None}, "no array test_input; found"),
        ({"train_input": None, "train_label": None}, "no arrays train_input and train_label; fou"),
        (
            {"tain_label": np.zeros(40)},
            "nothing reads the array tain_label; did you mean train_lab",
        ),
        ({"weights": np.zeros(40)}, "nothing reads the array weights; did you mean train_input, "),
        ({"train_image": np.zeros((40, 6, 5))}, "train_input and train_image: save one of them"),
        ({"train_input.x": np.zeros((40, 6))}, "train_input and train_input.x: save one of them"),
        (
            {"test_input": np.zeros((9, 6, 5), np.uint8)},
            "test_input has 9 rows, but test_label has",
        ),
        ({"train_label": np.arange(40) / 2}, 'train_label: row 1 is 0.5, .* task="regression"'),
        ({"test_label": np.full(10, 7)}, "test_label: row 0 is 7, which is no label of the train"),
        (
            {"train_input": np.full((40, 6, 5), np.nan)},
            "train_input: row 0 has a value that is mis",
        ),
        ({"test_input": np.zeros((10, 6, 5))}, "test_input: is float32, but train_input is uint8"),
        (
            {"train_input": np.zeros((40, 6, 6), np.uint8)},
            r"test_input: a row has shape \(6, 5, 1\)",
        ),
        ({"train_input": np.array([None] * 40)}, "train_input holds pickled objects"),
        ({"train_label": np.array([None] * 40)}, "train_label holds pickled objects"),
        ({"train_input": np.zeros((0, 6, 5), np.uint8)}, "train_input: is empty"),
    ],
)
def test_malformed_npz(tmp_path, changes, message):
    path = tmp_path / "bad.npz"
    np.savez(path, **arrays(**changes))
    with pytest.raises(UserError, match=message) as error:
        load_npz(path)
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)


def test_not_an_npz(tmp_path):
    with pytest.raises(UserError, match="config.data.path: no readable file"):
        load_npz(tmp_path / "none.npz")
    with pytest.raises(UserError, match="config.data.path: empty"):
        load_npz("")
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(UserError, match="not a readable npz file .no archive of arrays"):
        load_npz(tmp_path / "text.npz")
    np.savez(tmp_path / "whole.npz", **arrays())
    whole = (tmp_path / "whole.npz").read_bytes()
    (tmp_path / "half.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="half.npz: not a readable npz file"):
        load_npz(tmp_path / "half.npz")
    damaged = bytearray(whole)
    damaged[300:400] = bytes(100)
    (tmp_path / "damaged.npz").write_bytes(damaged)
    with pytest.raises(UserError, match="damaged.npz: train_input is damaged"):
        load_npz(tmp_path / "damaged.npz")
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(UserError, match="a single array"):
        load_npz(tmp_path / "one.npy")


# --- CSV ------------------------------------------------------------------------------------------

TABLE = """height,label,width,checked,note
1.5,cat,2,1,first
2.5,dog,3,no,"with, comma"

3.5,dog,4,TRUE,
4.5,cat,-5e1,0,x
"""


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_csv_with_a_column_of_trusted_rows(tmp_path):
    table = TABLE.replace("-5e1,0,", "-5e1,,")  # whoever checks rows marks those that are checked
    path = write(tmp_path / "a.csv", "\ufeff" + table)
    data = load_csv(path, clean_column="checked", ignore_columns=("note",))
    assert data.classes == ("cat", "dog") and data.columns == ("height", "width")
    train, clean = data.splits.train, data.splits.clean
    np.testing.assert_array_equal(train.inputs, [[2.5, 3], [4.5, -50]])
    np.testing.assert_array_equal(clean.inputs, [[1.5, 2], [3.5, 4]])
    assert train.label.tolist() == [1, 0] and clean.label.tolist() == [0, 1]
    # Lines of the file; the fourth is blank.
    assert data.ids[train.index].tolist() == ["3", "6"]
    assert data.ids[clean.index].tolist() == ["2", "5"]


def test_csv_with_files_of_trusted_and_test_rows(tmp_path):
    train = write(tmp_path / "train.csv", "a,b,label\n1,2,0\n3,4,1\n")
    clean = write(tmp_path / "clean.csv", "label,b,a\n1,20,10\n")  # another order
    test = write(tmp_path / "test.csv", "b,a,label\n200,100,0\n")
    data = load_csv(train, clean_path=str(clean), test_path=str(test))
    assert data.classes == (0, 1)
    np.testing.assert_array_equal(data.splits.clean.inputs, [[10, 20]])
    np.testing.assert_array_equal(data.splits.test.inputs, [[100, 200]])
    assert data.ids.tolist() == ["2", "3", "clean.csv:2"]


@pytest.mark.parametrize(
    "cells, classes",
    [
        (["0", "1", "0"], (0, 1)),
        (["2", " 1", "2"], (1, 2)),
        (["1.0", "0.0", "1"], (0, 1)),
        (["007", "010", "007"], ("007", "010")),
        (["1_5", "2", "2"], ("1_5", "2")),
        (["a", "1", "a"], ("1", "a")),
        (["True", "False", "True"], ("False", "True")),
        (["inf", "nan", "nan"], ("inf", "nan")),
    ],
)
def test_csv_labels_are_numbers_only_if_all_are(tmp_path, cells, classes):
    rows = "".join(f"{i},{cell}\n" for i, cell in enumerate(cells))
    assert load_csv(write(tmp_path / "a.csv", "x,label\n" + rows)).classes == classes


def test_csv_of_tags_and_values(tmp_path):
    path = write(tmp_path / "a.csv", "x,cat,dog,y\n1,1,,0.5\n2,no,Yes,1.5\n3,0,1,2.5\n")
    data = load_csv(path, "multi_label", label_column="dog, cat", ignore_columns=("y",))
    assert data.classes == ("dog", "cat")
    np.testing.assert_array_equal(data.splits.train.label, [[-1, 1], [1, 0], [1, 0]])
    data = load_csv(path, "regression", label_column="y", ignore_columns=("cat", "dog"))
    np.testing.assert_array_equal(data.splits.train.label, [0.5, 1.5, 2.5])
    np.testing.assert_array_equal(data.splits.train.inputs, [[1], [2], [3]])


@pytest.mark.parametrize(
    "text, fields, message",
    [
        ("", {}, "a.csv: is empty"),
        ("x,label\n", {}, "a.csv: has no row; config.data.path"),
        ("x,y\n1,2\n", {}, "config.data.label_column: no column 'label' in .*; found: x, y"),
        ("x,label\n1,0\n", {"label_column": ""}, "config.data.label_column: empty; columns of"),
        (
            "x,label\n1,0\n2\n",
            {},
            "a.csv, line 3: has 1 cells, .* 2 columns; column label is missing",
        ),
        ("x,label\n1,0,5\n", {}, "a.csv, line 2: has 3 cells, but there are 2 columns$"),
        ("x,x,label\n1,2,0\n", {}, "a.csv: two columns are named 'x'"),
        ("x,label\n1,0\n,1\n", {}, "a.csv, line 3, column x: an empty cell; .*ignore_columns="),
        (
            "x,name,label\n1,Bob,0\n",
            {},
            r"line 2, column name: 'Bob' is not a number; .*ignore_columns=\('name',\)",
        ),
        ("x,label\ninf,0\n", {}, "line 2, column x: 'inf' is not a number"),
        ("x,label\n1,0\n2,\n", {}, "line 3, column label: no label"),
        (",x,label\n0,1,0\n", {}, "a.csv: column 1 has no name; .*index=False"),
        ("label\n0\n1\n", {}, "a.csv: no column is left for the inputs"),
        (
            "x,label\n1,0\n",
            {"ignore_columns": ("nmae",)},
            "a.csv: no column 'nmae'; found: x, label",
        ),
        ("x,label\n1,0\n", {"clean_column": "ok"}, "a.csv: no column 'ok'; found"),
        ("x;label\n1;0\n", {}, "found: x;label; cells must be separated by commas"),
        (
            "x,ok,label\n1,maybe,0\n",
            {"clean_column": "ok"},
            "line 2, column ok: 'maybe'; must be 0 ",
        ),
        ("x,ok,label\n1,1,0\n", {"clean_column": "ok"}, "column ok marks every row as trusted"),
        ("x,ok,label\n1,0,0\n", {"clean_column": "ok"}, "column ok marks no row as trusted"),
        ('x,label\n1,"0\n', {}, "a.csv, line 2: not CSV"),
        (
            "file,x,label\na.png,1,0\n",
            {},
            r"with a column file, nothing reads the column x; .*\('x',\)",
        ),
        ("file,label\nnone.png,0\n", {}, "none.png: no such file"),
    ],
)
def test_malformed_csv(tmp_path, text, fields, message):
    path = write(tmp_path / "a.csv", text)
    with pytest.raises(UserError, match=message) as error:
        load_csv(path, **fields)
    assert "\n" not in str(error.value)


def test_malformed_csv_of_another_part(tmp_path):
    train = write(tmp_path / "train.csv", "x,y,label\n1,2,0\n3,4,1\n")
    for text, message in {
        "x,label\n1,0\n": "other.csv: lacks the column y, compared with .*train.csv",
        "x,y,z,label\n1,2,3,0\n": "other.csv: has one more column, z, compared with",
        "x,y,label\n1,2,7\n": "test_label: row 0 is 7, which is no label of the training set: 0, 1",
        "x,y,label\n": "other.csv: has no row; config.data.test_path",
    }.items():
        other = write(tmp_path / "other.csv", text)
        with pytest.raises(UserError, match=message):
            load_csv(train, test_path=str(other))
    with pytest.raises(UserError, match="config.data.clean_path: .* is config.data.path too"):
        load_csv(train, clean_path=str(tmp_path / "." / "train.csv"))
    (tmp_path / "latin.csv").write_bytes("x,y,label\n1,2,é\n".encode("latin1"))
    with pytest.raises(UserError, match="latin.csv: not text in UTF-8"):
        load_csv(train, test_path=str(tmp_path / "latin.csv"))
    with pytest.raises(UserError, match="none.csv: no readable file"):
        load_csv(tmp_path / "none.csv")


def test_csv_of_image_files(tmp_path):
    (tmp_path / "images").mkdir()
    for i in range(4):
        Image.fromarray(np.full((3, 2), 10 * i, np.uint8)).save(tmp_path / "images" / f"{i}.png")
    rows = "".join(f"images/{i}.png,{'ab'[i % 2]},{int(i == 3)}\n" for i in range(4))
    path = write(tmp_path / "a.csv", "file,label,ok\n" + rows)
    for resident in (True, False):
        data = load_csv(path, clean_column="ok", resident=resident)
        train = data.splits.train
        assert is_lazy(train.inputs) != resident and data.columns == ()
        np.testing.assert_array_equal(train.in_memory().inputs[:, 0, 0, 0], [0, 10, 20])
        assert data.ids.tolist() == [f"images/{i}.png" for i in range(4)]


# --- New inputs -----------------------------------------------------------------------------------


def fields(**changes):
    data = own_data.get_config("npz").data
    data.update(changes)
    return data


def test_new_rows_of_a_table_by_name(tmp_path):
    path = write(tmp_path / "new.csv", "b,name,a\n2,x,1\n\n4,y,3\n")
    inputs, ids = read_inputs(path, fields(), np.zeros((1, 2), np.float32), ("a", "b"))
    np.testing.assert_array_equal(inputs, [[1, 2], [3, 4]])
    assert inputs.dtype == np.float32 and ids.tolist() == ["2", "4"]
    with pytest.raises(UserError, match="new.csv: lacks the column c, which the model was trained"):
        read_inputs(path, fields(), np.zeros((1, 2), np.float32), ("a", "c"))
    with pytest.raises(UserError, match="line 2, column name: 'x' is not a number"):
        read_inputs(path, fields(), np.zeros((1, 2), np.float32), ("a", "name"))


def test_new_arrays(tmp_path):
    like = np.zeros((1, 6, 5, 1), np.uint8)
    np.savez(tmp_path / "a.npz", **arrays())
    inputs, ids = read_inputs(tmp_path / "a.npz", fields(), like)
    np.testing.assert_array_equal(inputs[..., 0], arrays()["test_input"])
    assert ids.tolist() == [str(i) for i in range(10)]
    np.savez(tmp_path / "b.npz", **{"input.x": np.ones((2, 3)), "input.y": np.ones((2, 1), int)})
    like = {"x": np.zeros((1, 3), np.float32), "y": np.zeros((1, 1), np.int32)}
    inputs, ids = read_inputs(tmp_path / "b.npz", fields(), like)
    assert inputs["x"].dtype == np.float32 and len(ids) == 2
    with pytest.raises(
        UserError, match=r"b.npz: input: has \['x', 'y'\], but the training set has"
    ):
        read_inputs(tmp_path / "b.npz", fields(), {"x": like["x"]})
    np.savez(tmp_path / "c.npz", inputs=np.ones((2, 3)))
    with pytest.raises(UserError, match="no array input or test_input; found: inputs"):
        read_inputs(tmp_path / "c.npz", fields(), like["x"])


def test_new_images(tmp_path):
    (tmp_path / "in").mkdir()
    for name, value in (("b.png", 20), ("in/a.png", 10)):
        Image.fromarray(np.full((4, 4), value, np.uint8)).save(tmp_path / name)
    like = np.zeros((0, 4, 4, 3), np.uint8)  # the model was trained in colour
    inputs, ids = read_inputs(tmp_path, fields(), like)
    assert ids.tolist() == ["b.png", "in/a.png"] and inputs.shape == (2, 4, 4, 3)
    np.testing.assert_array_equal(inputs[:][:, 0, 0], [[20] * 3, [10] * 3])
    inputs, ids = read_inputs(tmp_path / "b.png", fields(), like[..., :1])
    assert ids.tolist() == ["b.png"] and inputs[:].shape == (1, 4, 4, 1)
    table = write(tmp_path / "new.csv", "file,other\nin/a.png,x\n")
    inputs, ids = read_inputs(table, fields(), like)
    assert ids.tolist() == ["in/a.png"] and inputs[:][0, 0, 0, 0] == 10
    table.unlink()
    resized, _ = read_inputs(tmp_path, fields(image_size=2), np.zeros((0, 2, 2, 1), np.uint8))
    assert resized[:].shape == (2, 2, 2, 1)
    with pytest.raises(
        UserError, match="b.png: is 4x4, but the training images are 5x6; a run with config.dat"
    ):
        read_inputs(tmp_path, fields(), np.zeros((0, 6, 5, 1), np.uint8))
    with pytest.raises(UserError, match="images, but the model was not trained on images"):
        read_inputs(tmp_path, fields(), np.zeros((0, 6), np.float32))


def test_new_inputs_of_unknown_kinds(tmp_path):
    like = np.zeros((0, 4, 4, 3), np.uint8)
    with pytest.raises(UserError, match="none.csv: no such file or folder"):
        read_inputs(tmp_path / "none.csv", fields(), like)
    with pytest.raises(UserError, match=f"^{tmp_path}: has no image"):
        read_inputs(tmp_path, fields(), like)
    write(tmp_path / "a.txt", "x")
    with pytest.raises(UserError, match="a.txt: give an npz or CSV file, an image, or a folder"):
        read_inputs(tmp_path / "a.txt", fields(), like)
