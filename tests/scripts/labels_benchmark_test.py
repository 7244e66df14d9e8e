"""scripts/benchmarks/labels.py: its data, its numbers, its trainings, and its table."""

import csv
import importlib.util
import json

import jax
import labels_data
import labels_fits
import labels_tables
import numpy as np
import pytest
from matplotlib.figure import Figure

from reweight_jax.errors import UserError
from reweight_jax.train import devices

TINY = labels_data.Setting("digits", "mlp", 400, 20, 20, 40, (256,), 0.1)


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    """Four take longer to compile, and are not the subject."""
    monkeypatch.setattr(devices, "all_devices", lambda: jax.devices()[:1])


def data_of(label, true_label):
    pair = np.zeros((2, 1)), np.array([0, 1])
    arrays = np.zeros((len(label), 1)), np.array(label), np.array(true_label)
    return labels_data.Data(*arrays, pair, pair, pair)


# --- Data -----------------------------------------------------------------------------------------


def test_trusted_examples_are_taken_out_and_have_right_labels():
    data = labels_data.load(TINY, "uniform", 3, {})
    assert [len(data.label), len(data.clean[1]), len(data.calibration[1])] == [360, 20, 20]
    for _, label in (data.clean, data.calibration):
        np.testing.assert_array_equal(np.bincount(label), np.full(10, 2))
    np.testing.assert_array_equal(data.trusted[1], [*data.clean[1], *data.calibration[1]])
    (inputs, label), _ = labels_data.read("digits", "")
    right = {image.tobytes(): k for image, k in zip(inputs, label, strict=True)}
    parts = (data.inputs, data.true_label), data.clean, data.calibration
    seen = [[image.tobytes() for image in images] for images, _ in parts]
    assert len({image for part in seen for image in part}) == len(set(sum(seen, [])))
    for images, (_, label) in zip(seen, parts, strict=True):
        assert [right[image] for image in images] == label.tolist()


@pytest.mark.parametrize(
    "noise, share", [("none", 0), ("uniform", 0.4), ("uniform10", 0.1), ("background", 0.4)]
)
def test_share_of_wrong_labels(noise, share):
    data = labels_data.load(TINY, noise, 2, {})
    wrong = data.label != data.true_label
    assert wrong.sum() == round(share * 360)
    if noise == "background":  # of the paper's third trial
        assert set(data.label[wrong]) == {3}


def test_the_noises_of_a_seed_have_the_same_examples():
    first, second, other = (
        labels_data.load(TINY, noise, seed, {})
        for noise, seed in (("none", 0), ("asymmetric", 0), ("none", 1))
    )
    np.testing.assert_array_equal(first.inputs, second.inputs)
    np.testing.assert_array_equal(first.clean[0], second.clean[0])
    assert not np.array_equal(first.clean[0], other.clean[0])
    wrong = second.label != second.true_label
    np.testing.assert_array_equal(second.label[wrong], (second.true_label[wrong] + 1) % 10)


def test_human_labels_are_those_of_the_rows(tmp_path):
    rng = np.random.default_rng(0)
    label, given = np.tile(np.arange(10), 30), rng.integers(0, 10, 300)
    inputs = np.arange(300, dtype=np.float16)[:, None]  # a row's number
    arrays = {"train_input": inputs, "train_label": label, "test_input": inputs[:9]}
    np.savez(tmp_path / "features.npz", **arrays, test_label=label[:9])
    human = {"clean_label": label, "worse_label": given, "aggre_label": label}
    np.savez(tmp_path / "human.npz", **human)
    paths = {name: str(tmp_path / f"{name}.npz") for name in ("features", "human")}
    setting = labels_data.SETTINGS["features"]._replace(num_clean=50, num_calibration=50)
    data = labels_data.load(setting, "human_worst", 0, paths)
    rows = data.inputs[:, 0].astype(int)
    assert len(rows) == 200 and data.inputs.dtype == np.float32
    np.testing.assert_array_equal(data.label, given[rows])
    np.testing.assert_array_equal(data.true_label, label[rows])
    np.savez(tmp_path / "human.npz", **human | {"clean_label": label[::-1]})
    with pytest.raises(UserError, match="another order"):
        labels_data.load(setting, "human_worst", 0, paths)


def test_missing_files():
    with pytest.raises(UserError, match="--features=PATH is not given"):
        labels_data.load(labels_data.SETTINGS["features"], "none", 0, {})
    with pytest.raises(UserError, match="--mnist=/none.npz: there is no such file"):
        labels_data.load(labels_data.SETTINGS["mnist"], "none", 0, {"mnist": "/none.npz"})


# --- Numbers --------------------------------------------------------------------------------------


def test_scores_of_a_list():
    """Worst first: wrong, right, wrong, right; the last was never judged."""
    data = data_of([1, 0, 1, 0, 0], [0, 0, 0, 0, 0])
    scores = labels_fits.list_scores(np.array([-2.0, -1.0, 0.5, 3.0, np.nan]), data)
    # Of the 2 x 3 pairs of a wrong and a right label one is in the wrong order.
    expected = {"auroc": 5 / 6, "average_precision": (1 + 2 / 3) / 2}
    expected |= {"precision_at_n": 0.5, "precision_at_100": 2 / 5}
    assert scores == pytest.approx(expected)
    assert labels_fits.list_scores(np.zeros(2), data_of([1, 1], [1, 1])) == {}


def test_scores_of_flags_and_suggestions():
    data = data_of([1, 1, 1, 0, 0, 0, 0], [0, 2, 1, 0, 0, 0, 0])
    flagged = np.array([True, False, True, False, False, False, False])
    scores = labels_fits.flag_scores(flagged, data, "5")
    expected = {"false_alarms_5": 1 / 5, "recall_5": 1 / 2, "discoveries_5": 1 / 2}
    assert scores == pytest.approx(expected)
    beliefs = np.eye(3)[[0, 1, 1, 0, 0, 0, 0]]
    assert labels_fits.right_suggestions(beliefs, data) == {"right_suggestions": 0.5}
    right = data_of([1, 1], [1, 1])
    none = labels_fits.flag_scores(np.zeros(2, bool), right, "5")
    assert none == {"false_alarms_5": 0, "discoveries_5": 0}


@pytest.mark.slow
def test_every_part_trains():
    """Ours keeps its calibration set out of training; the rows have what the table shows."""
    data = labels_data.load(TINY, "uniform", 0, {})
    rows = {}
    for name in ("paper", "plain"):
        rows |= labels_fits.PARTS[name](data, TINY, 0)
    assert rows["reweight"].keys() >= {"auroc", "false_alarms_5", "recall_bh", "estimate"}
    assert rows["reweight"]["true_share"] == pytest.approx(0.4)
    assert rows["reweight"]["auroc"] > 0.6 and rows["plain, margin (AUM)"]["auroc"] > 0.6
    assert rows["reweight, retrained"]["seconds"] > rows["reweight"]["seconds"] > 0
    assert "auroc" in rows["plain, fine-tuned"]
    assert set(rows) <= set(labels_tables.METHODS)
    metrics = {metric for row in rows.values() for metric in row}
    assert metrics <= set(labels_tables.METRICS)
    assert "calibration_accuracy" not in rows["plain, margin (AUM)"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["settled", "judged", "trusted", "plain_calibrated", "cleanlab"])
def test_the_other_parts_train(name):
    if name == "cleanlab" and importlib.util.find_spec("cleanlab") is None:
        pytest.skip("cleanlab is not installed")
    data = labels_data.load(TINY, "uniform", 0, {})
    rows = labels_fits.PARTS[name](data, TINY._replace(num_steps=200), 0)
    assert all(row["test_accuracy"] > 0.3 for row in rows.values() if "test_accuracy" in row)
    assert set(rows) <= set(labels_tables.METHODS)


# --- The table ------------------------------------------------------------------------------------


def test_means_over_seeds():
    cells = [
        ("digits", "uniform", seed, {"reweight": {"auroc": value}})
        for seed, value in enumerate([0.8, 0.9, 1.0])
    ]
    cells.append(("digits", "uniform", 0, {"trusted only": {"auroc": 0.95}}))
    cells.append(("digits", "uniform", 1, {"reweight": {"test_accuracy": 0.5}}))
    rows = labels_tables.rows_of(cells)
    assert [(row["method"], row["seed"]) for row in rows] == [
        *(("reweight", seed) for seed in range(3)),
        ("trusted only", 0),
    ]
    ours, other = labels_tables.over_seeds(rows)
    assert ours["seeds"] == 3 and ours["auroc"] == pytest.approx(0.9)
    assert ours["auroc_ci95"] == pytest.approx(4.3027 * 0.1 / 3**0.5, rel=1e-4)  # Student's t
    assert ours["test_accuracy"] == 0.5 and np.isnan(ours["test_accuracy_ci95"])
    text = labels_tables.to_markdown([ours, other], {"digits": TINY})
    assert "| uniform | reweight | 3 | 0.900 ± 0.248 |" in text
    assert "| uniform | trusted only | 1 | **0.950** |" in text


@pytest.fixture
def command(load_script, monkeypatch, tmp_path):
    """arguments -> the parts that were run; a part takes no time."""
    labels = load_script("benchmarks/labels")
    calls = []

    def fake(name):
        def run(data, setting, seed):
            calls.append((name, seed, round(np.mean(data.label != data.true_label), 1)))
            return {"reweight" if name == "paper" else "trusted only": {"precision_at_n": 0.9}}

        return run

    parts = {name: fake(name) for name in ("paper", "trusted")}
    monkeypatch.setattr(labels_fits, "PARTS", parts)
    monkeypatch.setattr(labels_data, "SETTINGS", labels_data.SETTINGS | {"digits": TINY})

    def run(*arguments):
        calls.clear()
        folders = [f"--workdir={tmp_path}/runs", f"--output={tmp_path}/out"]
        labels.flags.FLAGS.unparse_flags()
        labels.flags.FLAGS(["labels.py", *folders, "--parts=paper,trusted", *arguments])
        labels.main()
        return list(calls)

    return run


def test_the_command_goes_on_and_writes_its_table(command, tmp_path, capsys, monkeypatch):
    chosen = ("--only=digits,features", "--noise=none,uniform,human_worst", "--seeds=2")
    wanted = [
        (part, seed, share)
        for seed in range(2)
        for share in (0.0, 0.4)
        for part in ("paper", "trusted")
    ]
    assert command(*chosen) == wanted
    # Human labels are of CIFAR-10 only, and there are no features.
    assert "skipped: features: --features=PATH is not given" in capsys.readouterr().err
    with (tmp_path / "out" / "labels_seeds.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8 and {row["precision_at_n"] for row in rows} == {"0.9"}
    assert (tmp_path / "out" / "labels.png").stat().st_size > 10_000
    monkeypatch.setattr(labels_tables, "draw", lambda means: Figure())  # it takes seconds
    assert command(*chosen) == []
    (tmp_path / "runs" / "digits-uniform" / "seed1" / "trusted.json").unlink()
    assert command(*chosen) == [("trusted", 1, 0.4)]
    # A part of other settings is run again.
    path = tmp_path / "runs" / "digits-none" / "seed0" / "paper.json"
    content = json.loads(path.read_text())
    for other in ({"num_steps": 7}, {"warm_up": 0.5}):
        path.write_text(json.dumps(content | {"setting": content["setting"] | other}))
        assert command("--notrain", *chosen) == [] and command("--train", *chosen) == [wanted[0]]


@pytest.mark.parametrize(
    "arguments, text",
    [
        (["--only=digit"], "--only"),
        (["--noise=human"], "--noise"),
        (["--parts=ours"], "--parts"),
        (["--notrain"], "no part is finished"),
    ],
)
def test_mistakes(command, arguments, text):
    with pytest.raises(UserError, match=text):
        command(*arguments)
