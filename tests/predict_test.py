"""python -m reweight_jax.predict: files in, a CSV file out, for runs of fit and of files."""

import csv
import os
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from commands import ROOT, assert_one_line, command
from PIL import Image
from whole_runs import train_undrawn

from reweight_jax import fit, load
from reweight_jax.configs import own_data
from reweight_jax.data.files import read_inputs
from reweight_jax.errors import UserError

ONE = jax.devices()[:1]
SMALL = {"num_steps": 30, "batch_size": 20, "learning_rate": 0.1, "method": "baseline"}
RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 2)).round(3)


def train(folder, variant, task="classification", **data):
    """A run of configs/own_data.py on a file, as the command line trains it."""
    config = own_data.get_config(variant)
    config.update(SMALL | {"task": task, "data": data})
    config.model.hidden = (8,)
    train_undrawn(config, folder, ONE)
    return load(folder, devices=ONE)


def predicted(workdir, source, *flags):
    """The rows that the command writes, as dicts."""
    output = workdir.parent / "out" / "predictions.csv"
    finished = command(
        "-m", "reweight_jax.predict",
        f"--workdir={workdir}", f"--input={source}", f"--output={output}", *flags,
    )  # fmt: skip
    assert finished.returncode == 0, finished
    assert finished.stderr == ""
    with output.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert finished.stdout == f"{len(rows)} predictions: {output}\n"
    return rows


def numbers(rows, *columns):
    return np.array([[float(row[column]) for column in columns] for row in rows])


def write_csv(path, header, *columns):
    lines = [",".join(header), *(",".join(map(str, row)) for row in zip(*columns, strict=True))]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def test_a_csv_file_of_named_classes(tmp_path):
    label = np.where(X[:, 0] > 0, "warm, dry", "cold")
    quoted = [f'"{name}"' for name in label]
    train_file = write_csv(tmp_path / "train.csv", ["a", "b", "label"], *X.T, quoted)
    clean_file = str(shutil.copy(train_file, tmp_path / "clean.csv"))
    run = train(tmp_path / "run", "csv", path=train_file, clean_path=clean_file)
    # Other columns, and another order; the id is the line of the file.
    source = write_csv(tmp_path / "new.csv", ["b", "note", "a"], X[:, 1], ["x"] * 60, X[:, 0])
    rows = predicted(tmp_path / "run", source)
    assert list(rows[0]) == ["id", "prediction", "p(cold)", "p(warm, dry)"]
    assert [row["id"] for row in rows] == [str(line) for line in range(2, 62)]
    p = numbers(rows, "p(cold)", "p(warm, dry)")
    np.testing.assert_allclose(p.sum(1), 1, atol=2e-6)
    np.testing.assert_allclose(p, run.predict(X), rtol=1e-5)
    named = np.array(["cold", "warm, dry"])[p.argmax(1)]
    assert [row["prediction"] for row in rows] == list(named)
    assert np.mean(named == label) > 0.9

    lacking = write_csv(tmp_path / "less.csv", ["a"], X[:, 0])
    finished = command("-m", "reweight_jax.predict", f"--workdir={tmp_path}/run",
                       f"--input={lacking}", f"--output={tmp_path}/none.csv")  # fmt: skip
    assert_one_line(finished, "less.csv: lacks the column b")
    assert not (tmp_path / "none.csv").exists()


def test_an_npz_file_at_the_best_step(tmp_path):
    arrays = {"train_input": X, "train_label": (X[:, 0] > 0) * 7}
    np.savez(tmp_path / "mine.npz", **arrays, clean_input=X[:20], clean_label=(X[:20, 0] > 0) * 7)
    run = train(tmp_path / "run", "npz", path=str(tmp_path / "mine.npz"))
    np.savez(tmp_path / "new.npz", input=X[5:])
    rows = predicted(tmp_path / "run", tmp_path / "new.npz", "--step=best")
    assert [row["id"] for row in rows] == [str(i) for i in range(55)]
    p = numbers(rows, "p(0)", "p(7)")
    np.testing.assert_allclose(p, run.predict(X, "best")[5:], rtol=1e-5)
    assert {row["prediction"] for row in rows} == {"0", "7"}


def test_a_folder_of_images_and_one_image(tmp_path):
    for i in range(40):
        name = ("dark", "bright")[i % 2]
        path = tmp_path / "train" / name / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = RNG.integers(0, 100, size=(8, 8), dtype=np.uint8) + 150 * (i % 2)
        Image.fromarray(image.astype(np.uint8)).save(path)
    source = str(tmp_path / "train")
    trusted = shutil.copytree(source, tmp_path / "trusted")
    train(tmp_path / "run", "image_folder", path=source, clean_path=str(trusted))
    rows = predicted(tmp_path / "run", source)
    assert sorted(row["id"] for row in rows) == sorted(
        f"{('dark', 'bright')[i % 2]}/{i}.png" for i in range(40)
    )
    assert all(row["prediction"] == row["id"].partition("/")[0] for row in rows)
    np.testing.assert_allclose(numbers(rows, "p(bright)", "p(dark)").sum(1), 1, atol=2e-6)
    (row,) = predicted(tmp_path / "run", tmp_path / "train" / "dark" / "0.png")
    assert (row["id"], row["prediction"]) == ("0.png", "dark")
    other = os.fsencode(tmp_path / "train" / "dark") + b"/caf\xe9.png"  # no text in UTF-8
    shutil.copyfile(tmp_path / "train" / "dark" / "0.png", other)
    assert [row["id"] for row in predicted(tmp_path / "run", os.fsdecode(other))] == ["caf?.png"]
    twin = next(row for row in rows if row["id"] == "dark/0.png")
    np.testing.assert_allclose(float(row["p(dark)"]), float(twin["p(dark)"]), rtol=1e-4)


@pytest.mark.parametrize(
    ("task", "labels", "columns"),
    [
        ("multi_label", (X > 0).astype(int), ["p(0)", "p(1)"]),
        ("regression", 100 * X[:, 0], ["prediction"]),
        ("regression", 100 * X, ["prediction_0", "prediction_1"]),
    ],
)
def test_tags_and_values_of_a_run_of_fit(tmp_path, task, labels, columns):
    run = fit(None, (X, labels), clean=(X[:20], labels[:20]), task=task, devices=ONE,
              workdir=tmp_path / "run", progress=False, plots=False,
              **SMALL | {"learning_rate": 0.01}, model_fields={"hidden": (8,)})  # fmt: skip
    np.savez(tmp_path / "new.npz", input=X)
    rows = predicted(tmp_path / "run", tmp_path / "new.npz")
    values = run.predict(X)
    assert list(rows[0]) == ["id", *(["tags"] if task == "multi_label" else []), *columns]
    np.testing.assert_allclose(numbers(rows, *columns), values.reshape(60, -1), rtol=1e-4)
    if task == "multi_label":
        tags = [";".join(str(k) for k in range(2) if p[k] > 0.5) for p in values]
        assert [row["tags"] for row in rows] == tags
        assert {"", "0;1"} & set(tags)


def test_no_name_in_the_predictions_is_a_formula():
    code = (
        "import types, numpy as np\n"
        "from reweight_jax import predict\n"
        "from reweight_jax.configs import own_data\n"
        "run = types.SimpleNamespace(classes=('=1+1', '-2'), config=own_data.get_config())\n"
        "values = np.array([[0.9, 0.1], [0.2, -0.5]])\n"
        "print(predict.to_csv(run, np.array(['=a', 'b']), values))\n"
        "run = types.SimpleNamespace(classes=(), config=own_data.get_config())\n"
        "run.config.task = 'robust'\n"  # of the user's own
        "print(predict.to_csv(run, np.array(['a']), np.array([0.5])))\n"
    )  # in a process of its own: the module defines flags
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert shown.stdout.split() == [
        *("id,prediction,p(=1+1),p(-2)", "'=a,'=1+1,0.9,0.1", "b,'=1+1,0.2,-0.5"),
        *("id,prediction", "a,0.5"),
    ], shown


def test_images_for_a_model_of_four_channels_are_an_npz(tmp_path):
    like = np.zeros((1, 8, 8, 4), np.uint8)
    Image.fromarray(like[0]).save(tmp_path / "0.png")
    with pytest.raises(UserError, match="0.png: images, .* trained on 4 channels; give an npz"):
        read_inputs(tmp_path / "0.png", own_data.get_config().data, like)


def test_mistakes_are_one_line(tmp_path):
    def answer(*flags):
        return command("-m", "reweight_jax.predict", *flags)

    assert_one_line(answer(), "--workdir is missing")
    assert_one_line(answer("--workdir=x"), "--input is missing")
    assert_one_line(
        answer(f"--workdir={tmp_path}", "--input=x"), f"{tmp_path}: no finished run (config.json"
    )
    assert_one_line(answer("x"), "unexpected argument 'x'")
    assert_one_line(answer("--step=first"), "--step", "last", "finetuned_best")
