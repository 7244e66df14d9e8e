"""suspects.csv: its contents by hand, and that corrections read it back exactly."""

import csv
import io

import numpy as np
import pytest

from reweight_jax.data import corrections
from reweight_jax.data.examples import Examples
from reweight_jax.labels import suspects
from reweight_jax.labels.quality import Judgement

NASTY = ("=1+1.png", "'=x", "-a,b", 'say "hi"', "two\nlines", "cr\rhere", "@x", "'ok", "über;✓")


def judgement(suggested, is_suspect, order, quality=None, p_value=None):
    size = len(order)
    quality = np.linspace(0, 1, size) if quality is None else np.array(quality)
    return Judgement(
        quality, np.array(suggested), p_value, np.array(is_suspect), None, np.array(order), {}
    )


def test_a_model_that_contradicts_right_labels_relabels_nothing():
    label = np.array([0, 0, 1])
    judged = judgement([1, 0, 1], [True, True, False], [2, 0, 1])
    rows = np.array([1, 0, 2])
    assert suspects.actions(judged, label, rows).tolist() == ["drop", "relabel", "keep"]
    judged = judged._replace(summary={"contradicted": True})
    assert suspects.actions(judged, label, rows).tolist() == ["drop", "drop", "keep"]


def read(content):
    return list(csv.DictReader(io.StringIO(content.decode(), newline="")))


def test_columns_and_cells_worst_first():
    examples = {
        "index": np.array([10, 11, 12, 13]),
        "label": np.array([0, 1, 2, 0], np.int32),
        "id": np.array(["a.png", "b.png", "c.png", "d.png"]),
        "visits": np.array([4, 5, 0, 6]),
        "margin": np.array([1.5, -2.25, np.nan, -1e-7], np.float32),
        "alignment": np.array([0.5, -1, np.nan, 0.125], np.float32),
        "weight": np.array([1, 0, np.nan, 0.5], np.float32),
    }
    judged = judgement(
        [0, 2, 2, -1],
        [False, True, False, True],
        [1, 3, 0, 2],
        [0.75, 0.1234567, np.nan, 0.5],
        np.array([0.5, 0.01, 1, 0.02]),
    )
    table = suspects.suspects_table(examples, judged, ("cat", "dog", 7))
    assert suspects.suspects_csv(table).decode().splitlines() == [
        "index,id,given_label,suggested_label,label_quality,p_value,is_suspect,margin,alignment,"
        "weight,visits,action",
        "11,b.png,dog,7,0.123457,0.01,True,-2.25,-1,0,5,relabel",
        "13,d.png,cat,,0.5,0.02,True,-1e-07,0.125,0.5,6,drop",
        "10,a.png,cat,cat,0.75,0.5,False,1.5,0.5,1,4,keep",
        "12,c.png,7,7,,1,False,,,,0,keep",
    ]


def test_what_is_not_known_is_an_empty_cell_or_no_column():
    examples = {name: np.zeros(2) for name in ("margin", "weight")}
    examples |= {name: np.arange(2) for name in ("index", "label", "visits")}
    table = suspects.suspects_table(examples, judgement([1, 1], [True, True], [0, 1]), ("a", "b"))
    assert "id" not in table
    rows = read(suspects.suspects_csv(table))
    assert [row["p_value"] + row["alignment"] for row in rows] == ["", ""]
    assert [row["action"] for row in rows] == ["relabel", "drop"]  # nothing else to call the second


def test_tags_and_their_lowest_margin():
    examples = {
        "index": np.arange(3),
        "label": np.array([[1, 0, -1], [0, 0, 0], [-1, -1, -1]]),
        "margin": np.array([[3.0, -2.0, -9.0], [1.0, 2.0, 0.5], [0.0, 0.0, 0.0]]),
        "weight": np.ones(3),
        "visits": np.ones(3, int),
    }
    suggested = [[1, 1, -1], [0, 0, 0], [-1, -1, -1]]
    judged = judgement(suggested, [True, True, False], [0, 1, 2])
    table = suspects.suspects_table(examples, judged, ("x", "y", "z"))
    assert table["given_label"] == ["x;?z", "", "?x;?y;?z"]
    assert table["suggested_label"] == ["x;y;?z", "", "?x;?y;?z"]
    assert table["action"] == ["relabel", "drop", "keep"]
    assert table["margin"][:2] == [-2.0, 0.5] and np.isnan(table["margin"][2])


@pytest.mark.parametrize(
    "label, suggested, given, cells",
    [
        ([0.1, 1e9], [np.nan, 2.5], [0.1, 1e9], [("0.1", "", "drop"), ("1e+09", "2.5", "relabel")]),
        (
            [[0.1, -2], [3, 4]],
            [[0.1, -2.5], [3, 4]],
            ["0.1;-2.0", "3.0;4.0"],
            [("0.1;-2.0", "0.1;-2.5", "relabel"), ("3.0;4.0", "3.0;4.0", "drop")],
        ),
    ],
)
def test_numbers_are_short_and_exact(label, suggested, given, cells):
    examples = {"index": np.arange(2), "label": np.array(label, np.float32)}
    examples |= {name: np.ones(2) for name in ("margin", "weight", "visits")}
    judged = judgement(np.array(suggested, np.float32), [True, True], [0, 1])
    table = suspects.suspects_table(examples, judged, ())
    assert table["given_label"] == given
    rows = read(suspects.suspects_csv(table))
    names = ("given_label", "suggested_label", "action")
    assert [tuple(row[name] for name in names) for row in rows] == cells


def test_no_name_is_a_formula_and_corrections_read_each_back(tmp_path):
    size = len(NASTY)
    label = np.arange(size)
    examples = {"index": np.arange(size), "label": label, "id": np.array(NASTY)}
    examples |= {name: np.ones(size) for name in ("margin", "weight", "visits")}
    classes = (*NASTY[:-2], -1, "+1")  # classes that are numbers are no formulas
    new = (label + 1) % size
    judged = judgement(new, np.ones(size, bool), np.arange(size))
    content = suspects.suspects_csv(suspects.suspects_table(examples, judged, classes))
    rows = read(content)
    for name in ("id", "given_label", "suggested_label"):
        cells = [row[name] for row in rows]
        assert not [cell for cell in cells if cell[0] in "=@\t\r" or cell[:2] == "-a"]
    assert rows[7]["given_label"] == "-1" and rows[0]["id"] == "'=1+1.png"
    (tmp_path / "suspects.csv").write_bytes(content)
    train = Examples(np.zeros((size, 1)), label.astype(np.int32), None, np.arange(size))
    files, ids = str(tmp_path / "suspects.csv"), np.array(NASTY)
    mended, _, counts = corrections.correct(train, files, classes, ids, size)
    np.testing.assert_array_equal(mended.label, new)
    assert counts == {"dropped": 0, "relabelled": size}


def test_a_file_name_that_is_no_text_does_not_stop_it():
    examples = {"index": np.arange(1), "label": np.zeros(1, int), "id": np.array(["\udcff.png"])}
    examples |= {name: np.ones(1) for name in ("margin", "weight", "visits")}
    table = suspects.suspects_table(examples, judgement([0], [False], [0]), ("a",))
    assert read(suspects.suspects_csv(table))[0]["id"] == "?.png"
