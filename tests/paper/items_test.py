"""The items of scripts/paper.py: their runs, what is read of these, and what is drawn."""

import json
import math
import pathlib

import jax
import numpy as np
import pytest

from reweight_jax.configs import cifar_background_flip
from reweight_jax.paper import behaviour, figures, items, mechanism, scores, unhelpful
from reweight_jax.paper.grid import Run
from reweight_jax.paper.scales import SCALES
from reweight_jax.records import plots
from reweight_jax.train import devices as on_devices

ROOT = pathlib.Path("runs")


# --- Which runs -----------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", SCALES)
def test_items_that_share_a_folder_want_the_same_run_there(scale):
    wanted = {}
    for name, item in items.ITEMS.items():
        runs = item.runs(SCALES[scale], ROOT)
        assert runs, name
        assert len({run.workdir for run in runs}) == len(runs), name
        for run in runs:
            assert wanted.setdefault(run.workdir, run.config.to_json()) == run.config.to_json()
            start = run.config.confusion_from
            assert not start or pathlib.Path(start) in {run.workdir for run in runs}, name


METHODS = ("reweight", "resample", "random")


def test_figure_2_runs_the_largest_ratio_first():
    runs = items.ITEMS["fig2"].runs(SCALES["small"], ROOT)
    ratios = [run.config.data.imbalance_ratio for run in runs]
    assert ratios == [200.0] * 53 + [100.0] * 18 + [50.0] * 18 + [20.0] * 18 + [10.0] * 18
    seeds = {m: sorted(r.config.seed for r in runs[:53] if r.config.method == m) for m in METHODS}
    assert seeds == {"reweight": [*range(10)], "resample": [*range(10)], "random": [0, 1, 2]}
    assert all(run.config.num_steps == 8_000 for run in runs)


def test_the_model_of_figure_3_is_trained_for_half_of_the_steps_at_one_rate():
    for run in items.ITEMS["fig3"].runs(SCALES["full"], ROOT):
        assert (run.config.num_steps, run.config.lr_drop_steps) == (40_000, ())


def test_retraining_gives_half_of_the_clean_set_to_calibration():
    runs = items.ITEMS["no_noise"].runs(SCALES["digits"], ROOT)
    retrained = [run.config for run in runs if run.config.retrain != "none"]
    assert {config.data.noise_ratio for config in retrained} == {0.0, 0.4}
    assert {(c.data.num_clean, c.data.num_calibration) for c in retrained} == {(50, 25)}


# --- What is read of them -------------------------------------------------------------------------


def run_of(method, seed=0, **fields):
    config = cifar_background_flip.get_config("digits")
    config.method, config.seed, config.num_steps = method, seed, 30
    config.update_from_flattened_dict(fields)
    return Run(config, pathlib.Path(f"{method}{seed}{'-'.join(map(str, fields.values()))}"))


def evaluation(step, clean, loss, test):
    scores = {"clean": {"accuracy": clean, "loss": loss}, "test": {"accuracy": test}}
    held_out = {"accuracy": test / 2, "true_accuracy": test / 4}
    return {"kind": "eval", "step": step, **scores, "hyper_val": held_out}


EVALS = [
    evaluation(10, 0.5, 1.0, 0.51),
    evaluation(20, 0.9, 0.8, 0.52),
    evaluation(25, 0.9, 0.7, 0.53),  # as accurate, with a lower loss
    evaluation(30, 0.8, 0.1, 0.54),
    evaluation(40, 1.0, 0.0, 0.99),  # fine-tuned on the clean set
]
ERRORS = {5: 0.9, 10: 0.7, 20: 0.6, 25: 0.5, 30: 0.4, 40: 0.0}
TRAINS = [{"kind": "train", "step": step, "error": error} for step, error in ERRORS.items()]


@pytest.fixture
def finished(monkeypatch):
    """Every run has these records, and a test accuracy that depends on its seed."""

    def read_run(workdir):
        seed = int(next(character for character in str(workdir) if character.isdigit()))
        accuracies = {"last": 0.6 + 0.1 * seed, "best": 0.7}
        accuracies |= {"finetuned_last": 0.8} if seed == 0 else {}
        accuracies |= {"retrained": 0.9} if "relabel" in str(workdir) else {}
        return {}, {name: {"test_accuracy": value} for name, value in accuracies.items()}

    records = sorted(TRAINS + EVALS, key=lambda record: (record["step"], record["kind"] == "eval"))
    for module in (scores, behaviour):
        monkeypatch.setattr(module, "read_run", read_run)
        monkeypatch.setattr(module, "read_metrics", lambda workdir: records)


def test_scores_by_choice_of_model(finished):
    """A method that does not see the clean set can be stopped by it; reweight cannot."""
    expected = {"": 0.6, "+ES": 0.7, "+FT": 0.8}
    assert scores.scores_of(run_of("baseline")) == expected | {"stopped": 0.53}
    assert scores.scores_of(run_of("reweight")) == expected
    seen = run_of("baseline", **{"data.clean_in_train": "always"})
    assert "stopped" not in scores.scores_of(seen)


def test_rows_of_runs(finished):
    runs = [run_of("reweight", seed) for seed in range(3)]
    runs += [run_of("reweight", seed, retrain="relabel") for seed in range(2)]
    rows = scores.collect(runs, **items.NUM_CLEAN)
    found = {row["choice"]: (row["num_clean"], row["seeds"], row["test_accuracy"]) for row in rows}
    assert found == {
        "": (50, 3, pytest.approx(0.7)),
        "+ES": (50, 3, pytest.approx(0.7)),
        "+FT": (50, 1, 0.8),
        "retrained": (50, 2, pytest.approx(0.9)),  # and nothing else of the runs that retrain
    }
    (last,) = scores.pick(rows, "reweight", "")
    assert last["ci95"] == pytest.approx(4.302653 * 0.1 / math.sqrt(3), rel=1e-5)
    text = scores.to_markdown(rows, "num_clean")
    assert "| reweight | 70.00 ± 24.84 (3) |\n" in text
    assert "| reweight +FT | 80.00 (1) |\n" in text


def test_curves_are_those_of_the_training_only(finished):
    rows = behaviour.curves([run_of("baseline", seed) for seed in range(2)])
    assert [row["step"] for row in rows] == [10, 20, 25, 30]
    assert rows[0]["train_accuracy"] == pytest.approx(1 - (0.9 + 0.7) / 2)  # since the last one
    assert rows[1]["train_accuracy"] == pytest.approx(0.4)
    assert rows[1]["hyper_val_accuracy"] == 0.26 and rows[1]["hyper_val_true_accuracy"] == 0.13
    config = run_of("baseline").config
    config.lr_drop_steps = (22,)
    text = behaviour.curves_to_markdown(rows, config)
    assert "| baseline, noisy labels | 27.0 | 26.0 | 27.0 |" in text


def test_the_summary_of_figure_3():
    wrong = np.array([False, False, False, True, True])
    panel = mechanism.Panel("t", "u", np.array([2.0, 1.0, 0.0, 0.0, 0.0]), wrong)
    right_row, wrong_row = mechanism.summary([panel])
    # Of six pairs (right, wrong) four are in order and two are equal.
    assert right_row["auc"] == wrong_row["auc"] == pytest.approx(5 / 6)
    assert (right_row["share_not_above_zero"], right_row["mean"]) == (pytest.approx(1 / 3), 1.0)
    assert (wrong_row["share_not_above_zero"], wrong_row["examples"]) == (1.0, 2)


def test_most_confused(monkeypatch):
    matrix = [[8, 2, 0], [0, 5, 5], [1, 0, 9]]
    result = {"confusion": {"last": {"test": matrix}}}
    monkeypatch.setattr(behaviour, "read_run", lambda workdir: ({}, result))
    found = behaviour.most_confused(run_of("baseline"))
    assert found == [(1, 2, 0.5), (0, 1, 0.2), (2, 0, 0.1)]


# --- What is drawn --------------------------------------------------------------------------------


@pytest.fixture
def drawn(monkeypatch):
    """-> the figures that were to be saved, by name of the file."""
    found = {}
    monkeypatch.setattr(plots, "save", lambda figure, path: found.update({path.name: figure}))
    return found


def row(method, choice, accuracy, **fields):
    return {"method": method, "choice": choice, "test_accuracy": accuracy, "ci95": 0.01} | fields


def test_lines(drawn):
    points = [("reweight", 0.9, 1), ("reweight", 0.8, 2), ("baseline", 0.5, 1)]
    rows = [row(method, "", accuracy, x=x) for method, accuracy, x in points]
    lines = [("baseline", ""), ("reweight", ""), ("random", "")]
    figures.draw_lines(rows, "x", lines, pathlib.Path("a.png"), xlabel="x")
    (axes,) = drawn["a.png"].axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["baseline", "reweight"]
    shown = {c.get_label(): c.lines[0].get_xydata().tolist() for c in axes.containers}
    expected = {"baseline": [[1, 50]], "reweight": [[1, 90], [2, 80]]}  # moved aside a little
    assert shown.keys() == expected.keys()
    for name, points in expected.items():
        np.testing.assert_allclose(shown[name], points, atol=0.05)
    assert axes.get_xlabel() and axes.get_ylabel()


def test_dots_have_the_papers_number_beside_them(drawn):
    rows = [row("reweight", "", 0.9, paper=0.85), row("baseline", "+ES", 0.5, paper=math.nan)]
    figures.draw_dots({"noise": rows}, pathlib.Path("a.png"))
    (axes,) = drawn["a.png"].axes
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == ["reweight", "baseline +ES"]
    diamonds = [line.get_xydata().tolist() for line in axes.lines if line.get_marker() == "D"]
    assert diamonds == [[[85, 0]], []]  # and the one of the legend


# --- Whole runs -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_items_of_short_runs(monkeypatch, tmp_path, load_script):
    """The script on runs of 40 steps: they are run once, and every file is there.

    Neither the network nor the plots in the folders of the runs are the subject.
    """
    get_config = cifar_background_flip.get_config

    def short(variant):
        config = get_config(variant)
        config.num_steps, config.lr_drop_steps, config.finetune_steps = 40, (20,), 5
        config.model.name, config.model.hidden = "mlp", (32,)
        config.log_every_steps = config.eval_every_steps = config.checkpoint_every_steps = 20
        return config

    monkeypatch.setattr(cifar_background_flip, "get_config", short)
    monkeypatch.setattr(on_devices, "all_devices", lambda: jax.devices()[:1])
    monkeypatch.setattr(plots, "draw_run", lambda *arguments: {})
    scale = SCALES["digits"]._replace(trials=1, ratios=(20.0,), seeds=1, most_seeds=1)
    monkeypatch.setitem(SCALES, "digits", scale)
    script = load_script("paper")
    what = ["fig3", "fig7", "no_noise"]
    flags = {"what": what, "workdir": str(tmp_path / "runs"), "output": str(tmp_path / "out")}
    for name, value in flags.items():
        monkeypatch.setattr(script, f"_{name.upper()}", Flag(value))
    for name, value in {"scale": "digits", "workers": 1, "only_draw": False}.items():
        monkeypatch.setattr(script, f"_{name.upper()}", Flag(value))
    script.main()
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {f"{name}_digits.{ending}" for name in what for ending in ("csv", "md", "png")}
    text = (tmp_path / "out" / "fig3_digits.md").read_text()
    assert "The paper: " in text and "1 of 1 runs are finished" in text
    results = list((tmp_path / "runs").glob("*/*/*/*/result.json"))
    # fig3, the four methods of fig7, at 0% baseline and reweight, and two that retrain
    assert len(results) == 1 + 4 + 2 + 2
    retrained = tmp_path / "runs" / "cifar_background_flip-digits-retrain" / "ratio0" / "reweight"
    accuracy = json.loads((retrained / "seed0" / "result.json").read_text())["retrained"]
    table = (tmp_path / "out" / "no_noise_digits.md").read_text()
    assert f"| reweight, retrained | {100 * accuracy['test_accuracy']:.2f} (1) |" in table


class Flag:
    """Stands for a flag."""

    def __init__(self, value):
        self.value = value


def test_unhelpful_settings_differ_in_what_they_say():
    runs = unhelpful.runs(SCALES["small"], ROOT)
    assert len(runs) == 4 * SCALES["small"].seeds
    found = [
        (r.config.on_zero_weights, r.config.data.num_clean, r.config.clean_batch_size)
        for r in runs[:: SCALES["small"].seeds]
    ]
    assert found == [("keep", 10, 10), ("uniform", 10, 10), ("keep", 30, 30), ("keep", 30, 10)]


def test_unhelpful_settings_are_named_whichever_are_finished(monkeypatch, tmp_path):
    records = [{"kind": "train", "step": 10, "steps_without_helpful_example": 5}]
    records += [{"kind": "eval", "step": 10, "clean": {"loss": 0.5}}]
    scores_of_run = {"test_error": 0.1, "clean_loss": 0.5}
    result = {"last": scores_of_run, "steps_without_helpful_example": 5}
    monkeypatch.setattr(unhelpful, "read_run", lambda workdir: ({}, result))
    monkeypatch.setattr(unhelpful, "read_metrics", lambda workdir: records)
    runs = unhelpful.runs(SCALES["digits"], tmp_path)
    finished = [
        run for run in runs if "-guard" in str(run.workdir) or "-larger/" in str(run.workdir)
    ]
    rows, _ = unhelpful.write(finished, tmp_path / "drawn")
    expected = [unhelpful.TEXTS["guard"], unhelpful.TEXTS["larger"]]
    assert [row["setting"] for row in rows] == expected
