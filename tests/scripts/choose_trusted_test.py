"""scripts/choose_trusted.py: examples drawn, labelled and read back, for every kind of data."""

import ast
import csv
import functools
import json
import shlex

import numpy as np
import pytest
from commands import ROOT, assert_one_line, command
from PIL import Image

from reweight_jax.configs import own_data
from reweight_jax.data.examples import Data, Examples, Splits
from reweight_jax.data.splits import load
from reweight_jax.data.trusted import uncertainty_of
from reweight_jax.sealed import seal

CLASSES = ("cat", "dog", "owl")
DATA = ("--config=configs/own_data.py:npz", "--config.data.path=a.npz")


def start(folder, *arguments):
    return command(str(ROOT / "scripts" / "choose_trusted.py"), *arguments, cwd=folder)


def run(folder, *arguments):
    finished = start(folder, *arguments)
    assert finished.returncode == 0 and finished.stderr == "", finished
    return finished.stdout.splitlines()


def fill_in(folder, answer, without=()):
    """Writes `answer(row as a dict)` into the column label; some positions stay empty."""
    path = folder / "to_label" / "to_label.csv"
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for position, row in enumerate(rows):
        assert row["label"] == ""
        row["label"] = "" if position in without else answer(row)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return rows


def draw(folder, variant, path, *arguments, to="to_label"):
    options = [f"--config=configs/own_data.py:{variant}", f"--config.data.path={path}", *arguments]
    return run(folder, *options, f"--output={to}")


def finish(folder):
    """Returns (the lines printed, the data that the command in the last one trains with)."""
    lines = run(folder, "--finish=to_label/to_label.csv", "--output=trusted")
    program, config_file, *options = shlex.split(lines[-1].removeprefix("python -m "))
    assert program == "reweight_jax.main"
    config = own_data.get_config(config_file.partition(":")[2])
    for option in options:
        name, _, value = option.removeprefix("--config.").partition("=")
        *group, field = name.split(".")
        target = config[group[0]] if group else config
        kind = type(target[field])
        target[field] = ast.literal_eval(value) if kind is tuple else kind(value)
    return lines, load(config, 0)


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Forty images of each folder; an image's gray value is 10 times its right class."""
    monkeypatch.chdir(tmp_path)
    for i in range(120):
        folder = tmp_path / "photos" / CLASSES[i // 40]
        folder.mkdir(parents=True, exist_ok=True)
        right = i % 3 if i % 4 == 0 else i // 40
        Image.fromarray(np.full((3, 3 + i % 2), 10 * right, np.uint8)).save(folder / f"{i}.png")
    return tmp_path


def test_an_image_folder(photos):
    lines = draw(photos, "image_folder", "photos", "--num=62", "--config.data.image_size=4")
    assert lines[0] == "62 examples: to_label/to_label.csv" and "one of cat, dog, owl" in lines[1]
    assert lines[2].endswith(" --output=trusted")

    def look_at(row):
        gray = np.asarray(Image.open(photos / "to_label" / row["picture"]))[0, 0]
        return CLASSES[gray // 10]

    rows = fill_in(photos, look_at, without=(0, 5))
    given = [row["given_label"] for row in rows]
    assert sorted(map(given.count, CLASSES)) == [20, 21, 21] and given != sorted(given)
    for row in rows:
        copied = (photos / "to_label" / row["picture"]).read_bytes()
        assert copied == (photos / "photos" / row["id"]).read_bytes()
        assert row["id"].startswith(row["given_label"])
    assert len({row["index"] for row in rows}) == 62
    lines, data = finish(photos)
    half = sum([row["label"] for row in rows].count(name) // 2 for name in CLASSES)
    wrong = np.mean([row["label"] != row["given_label"] for row in rows if row["label"]])
    assert lines[:-1] == [
        "60 trusted examples: trusted/decisions.csv",
        *(f"clean: {60 - half} of them", f"calibration: {half} of them"),
        "left out without an answer: 2",
        f"given labels that differ, each class weighted by its size: {wrong:.0%}",
        "to train with them:",
    ]
    splits = data.splits
    assert (splits.train.size, splits.calibration.size) == (60, half) and 28 < half <= 30
    assert data.corrections == {"dropped": 0, "relabelled": 0, "trusted": 60}
    for part in (splits.clean, splits.calibration):
        right = part.inputs[:, 0, 0, 0] // 10
        np.testing.assert_array_equal(part.label, right)
    trusted = {row["id"] for row in rows if row["label"]}
    assert not trusted & set(data.ids[splits.train.index].tolist())
    assert len(list(photos.glob("photos/*/*.png"))) == 120


def test_the_seed_decides_and_a_second_round_adds(photos):
    size = ["--config.data.image_size=4", "--num=6"]
    draw(photos, "image_folder", "photos", *size)
    first = (photos / "to_label" / "to_label.csv").read_text()
    for seed, is_same in ((0, True), (1, False)):
        other = [*size, f"--config.seed={seed}"]
        again = draw(photos, "image_folder", "photos", *other, to=f"s{seed}")
        assert again[0] == f"6 examples: s{seed}/to_label.csv"
        assert ((photos / f"s{seed}/to_label.csv").read_text() == first) == is_same
    rows = fill_in(photos, lambda row: "owl")
    finish(photos)
    (photos / "to_label").rename(photos / "round1")
    (photos / "trusted").rename(photos / "trusted1")
    decided = (photos / "trusted1/decisions.csv").read_text()
    assert decided.count(",clean,") == 6 and "calibration" not in decided  # six are too few
    rounds = [*size[:1], "--num=100"]
    rounds += ["--config.data.corrections=trusted1/decisions.csv"]
    draw(photos, "image_folder", "photos", *rounds)
    more = fill_in(photos, lambda row: "cat")
    (photos / "trusted").mkdir()
    assert draw(photos, "image_folder", "photos", *size, to="s2")[2].endswith("--output=trusted2")
    (photos / "trusted").rmdir()
    assert not {row["id"] for row in rows} & {row["id"] for row in more}
    lines, data = finish(photos)
    assert "no clean example of: dog" in lines
    assert data.splits.train.size == 14 and data.corrections["trusted"] == 106
    np.testing.assert_array_equal(np.bincount(data.splits.clean.label), [50, 0, 6])
    np.testing.assert_array_equal(np.bincount(data.splits.calibration.label), [50])


def test_a_table(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    x = np.round(np.random.default_rng(0).normal(size=(50, 2)), 3)
    label = np.where(np.arange(50) < 45, "many", "few")
    lines = [f"{a},{y},{b},note" for (a, b), y in zip(x, label, strict=True)]
    (tmp_path / "t.csv").write_text("\n".join(["a,kind,index,note", *lines, ""]))
    options = ["--config.data.label_column=kind", "--config.data.ignore_columns=('note',)"]
    draw(tmp_path, "csv", tmp_path / "t.csv", *options, "--num=20")
    rows = fill_in(tmp_path, lambda row: " FEW" if float(row["a"]) > 0 else "many", without=[3])
    assert sorted(row["given_label"] for row in rows) == ["few"] * 5 + ["many"] * 15
    for row in rows:
        values = [float(row[name]) for name in ("a", "index_")]
        np.testing.assert_allclose(values, x[int(row["index"])], rtol=1e-6)
        assert int(row["id"]) == int(row["index"]) + 2  # the line of the file
    lines, data = finish(tmp_path)
    assert shlex.split(lines[-1]) == [
        *("python", "-m", "reweight_jax.main", "--config=configs/own_data.py:csv"),
        f"--config.data.path={tmp_path}/t.csv",
        *options,
        "--config.data.corrections=trusted/decisions.csv",
    ]
    splits = data.splits
    assert (splits.train.size, splits.clean.size) == (31, 19)
    answered = sorted(int(row["index"]) for row in rows if row["label"])
    np.testing.assert_array_equal(splits.clean.inputs, x[answered].astype(np.float32))
    np.testing.assert_array_equal(splits.clean.label, x[answered, 0] <= 0)  # few, many
    assert not set(splits.train.index.tolist()) & set(answered)


def test_rows_that_a_column_marks_stay_trusted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = [f"{i}.5,{'xy'[i % 2]},{int(i < 4)}" for i in range(20)]
    (tmp_path / "t.csv").write_text("\n".join(["a,label,ok", *lines, ""]))
    draw(tmp_path, "csv", "t.csv", "--config.data.clean_column=ok", "--num=6")
    rows = fill_in(tmp_path, lambda row: "x")
    _, data = finish(tmp_path)
    chosen = sorted(float(row["a"]) for row in rows)
    np.testing.assert_array_equal(data.splits.clean.inputs[:, 0], [0.5, 1.5, 2.5, 3.5, *chosen])
    np.testing.assert_array_equal(data.splits.clean.label, [0, 1, 0, 1, *[0] * 6])
    assert min(chosen) > 4 and data.splits.train.size == 10


def test_a_table_of_files_and_tags(photos):
    files = sorted(path.relative_to(photos) for path in photos.glob("photos/*/*.png"))
    (photos / "lists").mkdir()
    lines = [f"../{file},1,," for file in files]
    (photos / "lists/t.csv").write_text("\n".join(["file,red,wet,odd", *lines, ""]))
    options = ["--config.task=multi_label", "--config.data.label_column=red,wet,odd", "--num=9"]
    options += ["--config.data.image_size=3"]
    draw(photos, "csv", "lists/t.csv", *options)
    answers = iter(["wet;red", "-", "?odd", "", "odd", "red", "red", "red", "red"])
    rows = fill_in(photos, lambda row: next(answers))
    assert {row["given_label"] for row in rows} == {"red;?wet;?odd"}
    lines, data = finish(photos)
    expected = [[1, 1, 0], [0, 0, 0], [0, 0, -1], [0, 0, 1], *[[1, 0, 0]] * 4]
    clean, answered = data.splits.clean, [row["id"] for row in rows if row["label"]]
    label = dict(zip(data.ids[clean.index], clean.label, strict=True))
    np.testing.assert_array_equal([label[name] for name in answered], expected)
    assert data.splits.train.size == 120 - 8
    # Only of red the given label is known: three answers have it not.
    assert lines[1:5] == [
        "clean: 8 of them",
        "no calibration set, so no rate of false alarms: it takes 40 answers, and two of a class",
        "left out without an answer: 1",
        "given labels that differ, of those drawn at random: 38%",
    ]


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_an_npz_file(tmp_path, monkeypatch, task):
    monkeypatch.chdir(tmp_path)
    images = np.zeros((30, 4, 5, 3), np.uint8)
    images[:, 0, 0, 0] = np.arange(30)
    label = np.arange(30) % 3 * 100 if task == "classification" else np.arange(30) / 7
    arrays = {"train_image": images, "train_label": label, "test_input": images[:3]}
    arrays |= {"test_label": label[:3], "clean_input": images[:2] + 200, "clean_label": label[1:3]}
    np.savez("a.npz", **arrays)
    draw(tmp_path, "npz", "a.npz", f"--config.task={task}", "--num=12")
    rows = fill_in(tmp_path, lambda row: "200" if task == "classification" else "-2.5")
    index = sorted(int(row["index"]) for row in rows)
    for row in rows:
        picture = np.asarray(Image.open(tmp_path / "to_label" / row["picture"]))
        np.testing.assert_array_equal(picture, images[int(row["index"])])
        assert float(row["given_label"]) == pytest.approx(label[int(row["index"])], rel=1e-6)
    _, data = finish(tmp_path)
    clean = data.splits.clean
    np.testing.assert_array_equal(clean.inputs[:, 0, 0, 0], [200, 201, *index])
    given = clean.label if task == "regression" else np.array(data.classes)[clean.label]
    answer = 200 if task == "classification" else -2.5
    np.testing.assert_allclose(given, [*label[1:3], *[answer] * 12], rtol=1e-6)
    assert sorted([*data.splits.train.index.tolist(), *index]) == list(range(30))
    assert data.splits.test.size == 3


def test_the_share_of_other_labels_is_that_of_the_set(load_script):
    """Background noise: 300 of 1,200 labels became 0, and as many examples of each are drawn."""
    label = np.repeat([0, 1, 2], [600, 300, 300])
    given = np.repeat([0, 1, 2], 20)
    is_other = np.arange(60) < 10  # half of class 0
    assert load_script("choose_trusted").share_by_class(is_other, given, label) == 0.25
    # Of class 2 nothing is known.
    share = load_script("choose_trusted").share_by_class(is_other[:40], given[:40], label)
    assert share == pytest.approx(300 / 900)


def write_run(folder, classes, **arrays):
    folder.mkdir()  # with what is read of a finished run
    config = {"dataset": {"classes": list(classes)}}
    (folder / "config.json").write_text(json.dumps(seal(config)))
    (folder / "result.json").write_text(json.dumps(seal({})))
    np.savez(folder / "examples.npz", **arrays)


def test_what_a_run_is_unsure_of(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(3)
    size, label = 600, np.arange(600) % 3
    arrays = {"train_input": rng.normal(size=(size, 2)), "train_label": label}
    arrays |= {"clean_input": np.full((3, 2), 7.0), "clean_label": [0, 1, 2]}
    np.savez("a.npz", **arrays)
    margin = rng.normal(size=size) * 5
    margin[7] = np.nan
    order = rng.permutation(size + 3)[:500]  # a run may have held some out, and added clean ones
    examples = {"index": order, "label": np.resize(label, size + 3)[order]}
    examples["margin"] = np.append(margin, [0, 0, 0])[order]
    write_run(tmp_path / "run", (0, 1, 2), **examples)
    draw(tmp_path, "npz", "a.npz", "--num=120", "--workdir=run")
    rows = fill_in(tmp_path, lambda row: row["given_label"])
    drawn = {"random": [], "uncertain": []}
    for row in rows:
        drawn[row["drawn"]].append(int(row["index"]))
    seen = np.isin(np.arange(size), order) & ~np.isnan(margin)
    for k in range(3):
        random, uncertain = ([i for i in drawn[kind] if i % 3 == k] for kind in drawn)
        assert len(random) == len(uncertain) == 20
        left = [i for i in range(k, size, 3) if seen[i] and i not in random]
        assert set(uncertain) == set(sorted(left, key=lambda i: abs(margin[i]))[:20])
    # The random half is of all examples: a tenth is as unsure as the most unsure tenth.
    cut = np.quantile(abs(margin[seen]), 0.1)
    assert 1 <= np.sum(abs(margin[drawn["random"]]) <= cut) <= 14
    lines, data = finish(tmp_path)
    assert lines[1:3] == ["clean: 60 of them", "calibration: 60 of them"]
    inputs = arrays["train_input"].astype(np.float32)
    for part, kind, older in (
        (data.splits.clean, "uncertain", arrays["clean_input"]),
        (data.splits.calibration, "random", np.zeros((0, 2))),
    ):
        chosen = sorted(int(row["index"]) for row in rows if row["drawn"] == kind)
        np.testing.assert_array_equal(part.inputs, np.concatenate([older, inputs[chosen]]))
    finished = start(tmp_path, *DATA, "--workdir=none", "--output=x")
    assert_one_line(finished, "--workdir none: no finished run")
    examples["label"] = (examples["label"] + 1) % 3
    write_run(tmp_path / "other", (0, 1, 2), **examples)
    assert_one_line(
        start(tmp_path, *DATA, "--workdir=other", "--output=x"),
        "the run had other data, or labels with injected noise",
    )


def test_an_unknown_tag_is_not_what_a_run_is_unsure_of():
    label = np.array([[1, 0, -1], [1, 0, 1], [0, 1, 0], [-1, -1, -1]])
    examples = {"index": np.arange(4), "label": label}
    examples["margin"] = np.array([[9, 7, 0], [9, 9, -0.5], [9, 8, 9], [0, 0, 0]])
    train = Examples(np.zeros((4, 2), np.float32), label, None, np.arange(4))
    data = Data(Splits(train), ("a", "b", "c"), 3)
    np.testing.assert_array_equal(
        uncertainty_of(examples, data.classes, data), [-7, -0.5, -8, -np.inf]
    )


def test_an_answer_for_a_row_that_was_dropped(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = [f"{i}.5,{'xy'[i % 2]}" for i in range(8)]
    (tmp_path / "t.csv").write_text("\n".join(["a,label", *lines, ""]))
    draw(tmp_path, "csv", "t.csv", "--num=8")
    fill_in(tmp_path, lambda row: row["given_label"])
    (tmp_path / "drop.csv").write_text("index,decision,new_label\n7,drop,\n")  # the last one
    options = ["--config=configs/own_data.py:csv", "--config.data.path=t.csv"]
    options += ["--config.data.corrections=drop.csv", "--finish=to_label/to_label.csv"]
    assert_one_line(
        start(tmp_path, *options, "--output=trusted"),
        "column index: 7 is not in the training set any more; a correction before this one drops",
    )
    assert not (tmp_path / "trusted").exists()


def test_mistakes_are_one_line_and_leave_nothing(tmp_path):
    np.savez(tmp_path / "a.npz", train_input=np.zeros((8, 2)), train_label=np.resize(CLASSES, 8))
    answer = functools.partial(start, tmp_path)
    assert_one_line(answer(*DATA), "--output is missing")
    assert_one_line(answer("--output=o"), "--config is missing")
    assert_one_line(answer(*DATA, "--output=o"), "--num: 100 examples wanted, of 8")
    assert_one_line(
        answer(*DATA, "--num=4", "--output=o", "--workdir=none"),
        "--workdir: the data has no trusted set; draw the first one at random",
    )
    digits = "--config=configs/mnist_imbalance.py:digits"
    assert_one_line(answer(digits, "--output=o"), "config.data.name: digits; must be npz, csv, ima")
    assert_one_line(answer("--finish=none.csv", "--output=o"), "config.json: cannot be read")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npz"]
    draw(tmp_path, "npz", "a.npz", "--num=8")
    assert_one_line(answer(*DATA, "--num=2", "--output=to_label"), "--output to_label: is there")
    finishing = ["--finish=to_label/to_label.csv", "--output=o"]
    assert_one_line(answer(*finishing), "to_label.csv: the column label is empty; fill it in")
    fill_in(tmp_path, lambda row: {"cat": "catt", "dog": "dog"}.get(row["given_label"], "bird"))
    assert_one_line(
        answer(*finishing),
        "'catt' is no class; did you mean cat? (3 x)",
        "'bird' is no class; valid: cat, dog, owl (2 x)",
    )
    path = tmp_path / "to_label/to_label.csv"
    text = path.read_text().replace("catt", "cat")
    path.write_text(text.replace(",dog,dog", ",owl,dog"))
    assert_one_line(answer(*finishing), "column given_label: 'owl', but row", "has 'dog'")
    path.write_text(text.replace("given_label,label", "given_label,right"))
    assert_one_line(
        answer(*finishing), "to_label.csv: no column 'label'; found: index, given_label"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npz", "to_label"]


def test_the_command_to_train_with_has_all_options_of_config(load_script):
    """A boolean needs no value. The value of another option may be the next argument."""
    script = load_script("choose_trusted")
    given = ["--config", "a.py", "--num=3", "--config.compare_plain", "--config.retrain=relabel"]
    given += [
        "-config.seed",
        "-1",
        "--noconfig.data.resident",
        "--output",
        "o",
        "--config.resume",
        "-config.seed=3",
    ]
    assert script.config_arguments(given) == [
        "--config=a.py",
        "--config.compare_plain",
        "--config.retrain=relabel",
        "--config.seed=-1",
        "--noconfig.data.resident",
        "--config.resume",
        "--config.seed=3",
    ]
