"""Corrections: rows dropped and relabelled before every draw; a file for other data is refused."""

import csv

import numpy as np
import pytest
from PIL import Image

from configs import default, own_data
from reweight_jax.data import corrections
from reweight_jax.data.examples import Part
from reweight_jax.data.splits import load, make_data
from reweight_jax.errors import UserError

CLASSES = ("cat", "dog", "owl")


def write(path, rows, header="index,given_label,decision,new_label"):
    path.write_text("\n".join([header, *rows, ""]), encoding="utf-8")
    return str(path)


def config_of(task="classification", **fields):
    config = own_data.get_config()
    config.task = task
    config.data.update({"name": "arrays", "num_clean": 0} | fields)
    return config


def parts_of(size=30, label=None, **fields):
    """Row i has the input i and the class of i modulo 3."""
    label = np.resize(CLASSES, size) if label is None else label
    return {"train": Part(np.arange(float(size))[:, None], label, **fields)}


def corrected(path, parts=None, task="classification", seed=0, **fields):
    config = config_of(task, corrections=str(path), **fields)
    return make_data(parts or parts_of(), config, seed)


def names(data, examples):
    return [data.classes[k] for k in examples.label]


# --- what they do ---------------------------------------------------------------------------------


def test_rows_are_dropped_and_relabelled(tmp_path):
    rows = ["3,cat,drop,", "4,dog,relabel,owl", "5,owl,keep,cat", "6,cat,,dog", "8,owl,relabel,owl"]
    data = corrected(write(tmp_path / "decisions.csv", rows))
    train = data.splits.train
    expected = {i: CLASSES[i % 3] for i in range(30)} | {4: "owl"}
    del expected[3]
    assert dict(zip(train.index.tolist(), names(data, train), strict=True)) == expected
    np.testing.assert_array_equal(train.inputs[:, 0], train.index)
    assert data.corrections == {"dropped": 1, "relabelled": 1}  # row 8 is an owl already
    assert data.classes == CLASSES and train.true_label is None
    assert make_data(parts_of(), config_of(), 0).corrections is None


def test_a_suspects_file_is_read_as_it_is(tmp_path):
    """Columns and cells as labels/suspects.py writes them, the worst label first."""
    header = "index,id,given_label,suggested_label,label_quality,p_value,is_suspect,action"
    rows = [
        "7,'=b.png,dog,cat,0.01,0.02,True,relabel",
        "2,a.png,owl,,0.02,,True,drop",
        "0,a.png,cat,dog,0.9,1,False,keep",
    ]
    ids = np.full(30, "a.png", dtype=object)
    ids[7] = "=b.png"
    data = corrected(write(tmp_path / "suspects.csv", rows, header), parts_of(id=ids))
    assert data.splits.train.size == 29 and data.corrections == {"dropped": 1, "relabelled": 1}
    assert data.splits.train.label[6] == 0 and data.splits.train.index[6] == 7
    # In a decisions.csv that has both pairs of columns, the decisions of a person count.
    rows = [f"{row},{what}," for row, what in zip(rows, ("keep", "drop", "drop"), strict=True)]
    path = write(tmp_path / "decisions.csv", rows, f"{header},decision,new_label")
    assert corrected(path, parts_of(id=ids)).corrections == {"dropped": 2, "relabelled": 0}


def test_they_come_before_the_draws_and_the_noise(tmp_path):
    drop = [f"{i},{CLASSES[i % 3]},drop," for i in range(0, 300, 10)]
    relabel = [f"{i},{CLASSES[i % 3]},relabel,owl" for i in range(1, 300, 10)]
    path = write(tmp_path / "decisions.csv", drop + relabel)
    fields = dict(noise="uniform_flip", noise_ratio=0.5, num_clean=30, num_hyper_val=40)
    splits = corrected(path, parts_of(300), **fields).splits
    right = np.arange(300) % 3
    right[1::10] = 2
    used = []
    for part, is_noisy in ((splits.train, 1), (splits.clean, 0), (splits.hyper_val, 1)):
        assert not (part.index % 10 == 0).any()
        np.testing.assert_array_equal(part.true_label, right[part.index])
        assert np.sum(part.label != part.true_label) == is_noisy * part.size // 2
        np.testing.assert_array_equal(part.inputs[:, 0], part.index)
        used += part.index.tolist()
    assert sorted(used) == [i for i in range(300) if i % 10]
    np.testing.assert_array_equal(np.bincount(splits.clean.label), [10, 10, 10])


def test_files_follow_each_other(tmp_path):
    """Indices are always those of the source; labels those that the files before have left."""
    first = write(tmp_path / "first, of May.csv", ["1,dog,drop,", "2,owl,relabel,cat"])
    second = write(tmp_path / "b.csv", ["2,cat,relabel,dog", "29,owl,drop,"])
    data = corrected(first)  # a comma in the name of a file that exists
    assert data.corrections == {"dropped": 1, "relabelled": 1}
    first = write(tmp_path / "a.csv", ["1,dog,drop,", "2,owl,relabel,cat"])
    data = corrected(f"{first}, {second}")
    assert data.corrections == {"dropped": 2, "relabelled": 2}
    expected = [i for i in range(30) if i not in (1, 29)]
    assert data.splits.train.index.tolist() == expected
    assert names(data, data.splits.train)[1] == "dog"
    with pytest.raises(UserError, match="b.csv, line 2, .*'cat', but row 2 of the data has 'owl'"):
        corrected(f"{second},{first}")
    again = write(tmp_path / "c.csv", ["1,dog,keep,"])
    with pytest.raises(
        UserError, match="c.csv, line 2, column index: 1 is not in the training set"
    ):
        corrected(f"{first},{again}")


def test_classes_are_chosen_afterwards(tmp_path):
    label = np.arange(30) % 3
    path = write(tmp_path / "d.csv", ["0,0,relabel,1", "1,1,relabel,2", "2,2,drop,"])
    data = corrected(path, parts_of(label=label), classes=(2, 1), labels_are_right=True)
    train = data.splits.train
    expected = {i: int(label[i]) for i in range(30) if label[i]} | {0: 1, 1: 2}
    del expected[2]
    assert dict(zip(train.index.tolist(), names(data, train), strict=True)) == expected
    np.testing.assert_array_equal(train.true_label, train.label)


def test_labels_of_tags(tmp_path):
    label = np.array([[1, 0, -1], [0, 1, 1], [0, 0, 0], [1, 1, 1]])
    parts = parts_of(4, label, tags=("red", "?odd", "wet"))
    rows = ["0,?wet;red,relabel,", "1,?odd;wet,relabel,red; ?wet", "2,,relabel,??odd"]
    data = corrected(write(tmp_path / "d.csv", rows), parts, "multi_label", labels_are_right=True)
    expected = [[0, 0, 0], [1, 0, -1], [0, -1, 0], [1, 1, 1]]
    np.testing.assert_array_equal(data.splits.train.label, expected)
    np.testing.assert_array_equal(data.splits.train.true_label, expected)
    assert data.corrections == {"dropped": 0, "relabelled": 3}
    text = corrections.label_texts(label, data.classes)
    assert text == ["red;?wet", "?odd;wet", "", "red;?odd;wet"]


@pytest.mark.parametrize("shape", [(), (2,)])
def test_labels_of_numbers(tmp_path, shape):
    label = np.array([0.1, -2, 3e9, 1 / 3])
    texts = ["0.1", "-2", "3e+09", "0.333333"]
    if shape:
        label, texts = np.stack([label, -label], 1), [f"{t};{-float(t)}" for t in texts]
    new = "0.25;4" if shape else "0.25"
    rows = [f"{i},{text},relabel,{new}" for i, text in enumerate(texts)][1:]
    data = corrected(write(tmp_path / "d.csv", rows), parts_of(4, label), "regression")
    expected = label.astype(np.float32).copy()
    expected[1:] = [0.25, 4] if shape else 0.25
    np.testing.assert_array_equal(data.splits.train.label, expected)
    assert data.splits.train.label.dtype == np.float32


def test_texts_are_read_back_as_the_same_labels():
    rng = np.random.default_rng(0)
    for labels, classes in [
        (rng.normal(size=(50, 3)).astype(np.float32), ()),
        (rng.normal(size=50).astype(np.float32) * 1e-9, ()),
        (rng.integers(0, 3, 50).astype(np.int32), (3, 7, 11)),
        (rng.integers(0, 2, 50).astype(np.int32), (False, True)),
        (rng.integers(-1, 2, (50, 3)).astype(np.int32), ("a", "b b", "?")),
    ]:
        parse = corrections.label_parser(classes, labels)
        texts = corrections.label_texts(labels, classes)
        np.testing.assert_array_equal([parse(text) for text in texts], labels)


def test_csv_cells_are_no_formulas(tmp_path):
    cells = ["=1+1.png", "@x", "-dash", "-3.5", "'=quoted", 'plain, \'n "x"', "", "+4e5", "a\rb\nc"]
    text = corrections.to_csv(["name"], [[cell] for cell in cells])
    path = tmp_path / "t.csv"
    path.write_text(text, newline="")
    with path.open(newline="") as file:
        written = [row[0] if row else "" for row in csv.reader(file)][1:]
    assert [cell[0] for cell in written if cell] == ["'", "'", "'", "-", "'", "p", "+", "a"]
    assert [corrections.plain_text(cell) for cell in written] == cells


# --- mistakes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rows, message",
    [
        (
            ["3,cat,dorp,"],
            "line 2, column decision: 'dorp'; must be keep, drop, relabel, clean or cal",
        ),
        (["3,cat,relabel,catt"], "column new_label: 'catt' is no class; did you mean cat[?]$"),
        (["3,cat,relabel,"], "column new_label: '' is no class; valid: cat, dog, owl$"),
        (["3,dog,drop,"], "column given_label: 'dog', but row 3 of the data has 'cat'; .* other"),
        (["3,bird,keep,"], "column given_label: 'bird', but row 3 of the data has 'cat'"),
        (["30,cat,drop,"], r"column index: '30'; must be a row of the training set, 0\.\.29$"),
        (["-1,cat,drop,"], r"column index: '-1'; must be a row"),
        (["1.0,cat,drop,"], r"column index: '1.0'; must be a row"),
        (["3,cat,drop,", "", "3,cat,keep,"], "line 4, column index: 3 is in line 2 too$"),
        (["3,cat"], "line 2: has 2 cells, but there are 4 columns; column decision is missing$"),
        ([f"{i},,drop," for i in range(30)], "given_label: '', but row 0"),
    ],
)
def test_a_mistake_names_the_line(tmp_path, rows, message):
    path = write(tmp_path / "decisions.csv", rows)
    with pytest.raises(UserError, match=message) as error:
        corrected(path)
    assert "\n" not in str(error.value) and str(error.value).startswith(path)


@pytest.mark.parametrize(
    "header, message",
    [
        ("row,decision,new_label", "no column 'index'; found: row, decision"),
        ("index,given_label,new_label", "no column 'decision'; found: index, given_label, "),
        ("index,decision,suggested_label", "no column 'new_label'; found: index, decision, sug"),
        ("index,action,new_label", "no column 'suggested_label'; found: index, action, new"),
    ],
)
def test_a_missing_column_is_named(tmp_path, header, message):
    path = write(tmp_path / "d.csv", ["3,drop,dog"], header)
    with pytest.raises(UserError, match=f"d.csv: {message}") as error:
        corrected(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("character", ";\t")
def test_other_separators_are_named(character, tmp_path):
    header, row = (character.join(cells) for cells in (("index", "decision"), ("3", "drop")))
    with pytest.raises(UserError, match="no column 'decision'; .*must be separated by commas"):
        corrected(write(tmp_path / "d.csv", [row], header))


def test_files_of_other_data_are_refused(tmp_path):
    ids = np.array([f"{i}.png" for i in range(30)])
    path = write(tmp_path / "d.csv", ["3,4.png,drop,"], "index,file,action,suggested_label")
    with pytest.raises(UserError, match="column file: '4.png', but row 3 of the data is '3.png'; "):
        corrected(path, parts_of(id=ids))
    with pytest.raises(UserError, match="'4.png', but row 3 of the data has no name; the file "):
        corrected(path)
    with pytest.raises(UserError, match="^.*none.csv: no readable file "):
        corrected(tmp_path / "none.csv")
    every = write(
        tmp_path / "all.csv", [f"{i},drop," for i in range(30)], "index,decision,new_label"
    )
    with pytest.raises(UserError, match="all.csv: leaves no training example$"):
        corrected(every)


def test_rows_of_the_trusted_set_are_not_corrected(tmp_path):
    """A run that also trained on the trusted examples lists them, with indices from N on."""
    parts = parts_of() | {"clean": Part(np.zeros((3, 1)), CLASSES)}
    kept = write(tmp_path / "kept.csv", ["31,dog,keep,", "3,cat,drop,"])
    data = corrected(kept, parts)
    assert data.splits.train.size == 29 and data.splits.clean.size == 3
    np.testing.assert_array_equal(data.splits.clean.index, [30, 31, 32])
    dropped = write(tmp_path / "dropped.csv", ["31,dog,drop,"])
    with pytest.raises(
        UserError, match="line 2, column index: 31 is a trusted or held-out example"
    ):
        corrected(dropped, parts)
    header = "index,given_label,suggested_label,action"
    rows = ["31,dog,owl,relabel", "0,cat,owl,relabel", "32,owl,,drop"]
    suspects = write(tmp_path / "suspects.csv", rows, header)
    data = corrected(suspects, parts)
    assert data.corrections == {"dropped": 0, "relabelled": 1}
    assert names(data, data.splits.clean) == list(CLASSES)
    with pytest.raises(UserError, match=r"'33'; must be a row of the training set, 0\.\.29"):
        corrected(write(tmp_path / "far.csv", ["33,dog,keep,"]), parts)


def test_rows_become_trusted_with_their_new_labels(tmp_path):
    rows = ["3,cat,clean,cat", "7,dog,calibration,owl", "4,dog,clean,owl", "8,owl,drop,"]
    first = write(tmp_path / "trusted.csv", rows)
    parts = parts_of() | {"clean": Part(np.full((2, 1), -1.0), CLASSES[:2])}
    data = corrected(first, parts)
    splits = data.splits
    assert data.corrections == {"dropped": 1, "relabelled": 0, "trusted": 3}
    np.testing.assert_array_equal(splits.clean.index, [30, 31, 3, 4])
    np.testing.assert_array_equal(splits.clean.inputs[:, 0], [-1, -1, 3, 4])
    assert names(data, splits.clean) == ["cat", "dog", "cat", "owl"]
    assert (splits.calibration.index.tolist(), names(data, splits.calibration)) == ([7], ["owl"])
    assert set(range(30)) - set(splits.train.index.tolist()) == {3, 4, 7, 8}
    # A later file adds to them, and may name them only to keep them.
    later = write(tmp_path / "later.csv", ["9,cat,clean,dog", "4,owl,keep,", "0,cat,relabel,owl"])
    data = corrected(f"{first},{later}", parts)
    np.testing.assert_array_equal(data.splits.clean.index, [30, 31, 3, 4, 9])
    assert data.corrections == {"dropped": 1, "relabelled": 1, "trusted": 4}
    with pytest.raises(UserError, match="line 2, column index: 4 is a trusted or held-out example"):
        corrected(f"{first},{write(tmp_path / 'drop.csv', ['4,owl,drop,'])}", parts)
    # Noise is for what is trained on.
    noisy = corrected(first, parts, noise="uniform_flip", noise_ratio=0.9)
    assert names(noisy, noisy.splits.clean) == ["cat", "dog", "cat", "owl"]


# --- every source ---------------------------------------------------------------------------------


def test_image_folder_csv_and_npz(tmp_path):
    for i in range(12):
        folder = tmp_path / "photos" / CLASSES[i % 3]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 4), 10 * i, np.uint8)).save(folder / f"{i:02}.png")
    lines = [f"{10 * i},{CLASSES[i % 3]}" for i in range(12)]
    (tmp_path / "t.csv").write_text("\n".join(["x,label", *lines, ""]))
    label = np.resize(CLASSES, 12)
    np.savez(tmp_path / "t.npz", train_input=10.0 * np.arange(12)[:, None], train_label=label)
    # A folder is read class by class: row 5 is the second dog, photo 4.
    by_class = write(
        tmp_path / "folder.csv",
        ["5,dog/04.png,dog,drop,", "0,cat/00.png,cat,relabel,owl"],
        "index,id,given_label,decision,new_label",
    )
    by_line = write(
        tmp_path / "lines.csv",
        ["4,6,dog,drop,", "0,2,cat,relabel,owl"],
        "index,id,given_label,decision,new_label",
    )
    by_row = write(tmp_path / "rows.csv", ["4,dog,drop,", "0,cat,relabel,owl"])
    expected = {10 * i: CLASSES[i % 3] for i in range(12)} | {0: "owl"}
    del expected[40]
    for name, path, file, resident in (
        ("image_folder", "photos", by_class, True),
        ("image_folder", "photos", by_class, False),
        ("csv", "t.csv", by_line, True),
        ("npz", "t.npz", by_row, True),
    ):
        fields = {"name": name, "path": str(tmp_path / path), "resident": resident}
        data = load(config_of(corrections=file, **fields), 0)
        train = data.splits.train.in_memory()
        value = train.inputs.reshape(train.size, -1)[:, 0].astype(int).tolist()
        assert dict(zip(value, names(data, train), strict=True)) == expected


def test_digits(tmp_path):
    config = default.get_config()
    config.data.update({"name": "digits", "num_hyper_val": 100})
    before = load(config, 0).splits
    digit = int(before.train.true_label[0])
    row = int(before.train.index[0])
    config.data.corrections = write(tmp_path / "d.csv", [f"{row},{digit},drop,"])
    after = load(config, 0).splits
    sizes = [part.size for part in (after.train, after.clean, after.hyper_val)]
    assert sizes == [before.train.size - 1, 10, 100] and row not in after.train.index


def test_names_that_are_no_text(tmp_path):
    label = np.resize(["cat", "a\udcff"], 4)
    parts = parts_of(4, label, id=np.array(["0.png", "\udcff.png", "2.png", "3.png"]))
    rows = ["1,?.png,a?,drop,", "2,2.png,cat,relabel,a?"]  # as suspects.csv and the page write them
    path = write(tmp_path / "d.csv", rows, "index,id,given_label,decision,new_label")
    data = corrected(path, parts)
    assert data.corrections == {"dropped": 1, "relabelled": 1}
    assert names(data, data.splits.train) == ["cat", "a\udcff", "a\udcff"]


def test_fit_takes_corrections(tmp_path):
    from reweight_jax import fit  # the trainer, which the rest of this file does not need

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 2)), np.resize(["no", "yes"], 40)
    path = write(tmp_path / "d.csv", ["7,yes,drop,", "8,no,relabel,yes"])
    settings = dict(method="baseline", num_steps=2, log_every_steps=1)
    settings |= dict(eval_every_steps=2, checkpoint_every_steps=2, progress=False, plots=False)
    settings |= dict(model_fields=dict(hidden=(4,)), batch_size=8)
    run = fit(None, (x, y), data=dict(corrections=path), **settings)
    expected = [i for i in range(40) if i != 7]
    assert run.examples["index"].tolist() == expected
    assert run.examples["label"][7] == 1  # row 8
    with pytest.raises(UserError, match="d.csv, line 2, column given_label: 'yes', but row 7 of "):
        fit(None, (x, y[::-1]), data=dict(corrections=path), **settings)
