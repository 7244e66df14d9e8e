"""Phases of a run: label noise, fine-tuning from the last and the best step, learning rates."""

import json
import shutil

import chex
import jax
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from whole_runs import ONE_DEVICE, saved, train_undrawn, without_times

from reweight_jax.configs import cifar_background_flip, cifar_uniform_flip
from reweight_jax.data import splits as data
from reweight_jax.errors import UserError
from reweight_jax.records import result as results
from reweight_jax.records.metrics import read_metrics
from reweight_jax.sealed import read_sealed
from reweight_jax.train import loop
from reweight_jax.train.config import load_experiment
from reweight_jax.train.evaluate import weight_statistics
from reweight_jax.train.loop import train_and_evaluate
from reweight_jax.train.phases import LR_SCHEDULES, phases_of


@pytest.fixture
def noisy_config():
    """() -> the digits variant with background noise: eight steps and four of tuning, an MLP."""

    def make(**fields):
        config = cifar_background_flip.get_config("digits")
        config.model.name, config.model.hidden = "mlp", (8,)
        config.num_steps, config.finetune_steps, config.finetune_from = 8, 4, "both"
        config.lr_drop_steps = (4,)
        config.batch_size = config.clean_batch_size = 20
        config.log_every_steps = config.eval_every_steps = 2
        config.checkpoint_every_steps = 8
        config.update_from_flattened_dict(fields)
        return config

    return make


def test_phases_of_a_config(noisy_config):
    def spans(**fields):
        phases = phases_of(noisy_config(**fields))
        return [(phase.name, phase.start, phase.stop, phase.begin) for phase in phases]

    train = ("last", 0, 8, "before")
    assert spans(finetune_from="none") == [train]
    assert spans(finetune_from="last") == [train, ("finetuned_last", 8, 12, 8)]
    assert spans(finetune_from="best") == [train, ("finetuned_best", 8, 12, "best")]
    assert spans() == [train, ("finetuned_last", 8, 12, 8), ("finetuned_best", 12, 16, "best")]
    assert spans(finetune_from="retrained", retrain="drop", compare_plain=True) == [
        train,
        ("plain", 8, 16, "afresh"),
        ("retrained", 16, 24, "afresh"),
        ("finetuned_retrained", 24, 28, 24),
    ]


def test_the_learning_rate_falls_along_a_cosine(noisy_config):
    schedule = LR_SCHEDULES["cosine"](noisy_config(num_steps=80))
    rate = noisy_config().learning_rate
    expected = [rate * (1 + np.cos(np.pi * step / 80)) / 2 for step in (0, 20, 40, 60, 80)]
    got = [float(schedule(step)) for step in (0, 20, 40, 60, 80)]
    np.testing.assert_allclose(got, expected, atol=1e-6 * rate)


def test_learning_rate_falls_to_a_tenth(noisy_config):
    schedule = LR_SCHEDULES["drops"](noisy_config(lr_drop_steps=(40, 60)))
    rates = [float(schedule(step)) for step in (0, 40, 41, 60, 61, 1000)]
    # The update of step t is number t - 1: the one after 40 steps is the first at the lower rate.
    before, after = [float(schedule(step)) for step in (39, 40)]
    np.testing.assert_allclose([before, after], [0.1, 0.01], rtol=1e-6)
    np.testing.assert_allclose(rates, [0.1, 0.01, 0.01, 0.001, 0.001, 0.001], rtol=1e-6)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run with both kinds of fine-tuning, whose best step is not its last, and its plots."""
    workdir = tmp_path_factory.mktemp("finished")
    config = cifar_uniform_flip.get_config("digits")
    config.method, config.seed, config.learning_rate = "s_model", 0, 1.0
    config.num_steps, config.finetune_steps, config.finetune_from = 8, 4, "both"
    config.lr_drop_steps = (4,)
    config.batch_size = 20
    config.log_every_steps = config.eval_every_steps = 2
    config.checkpoint_every_steps = 2
    return config, workdir, train_and_evaluate(config, workdir, ONE_DEVICE)


def test_result_has_all_phases(finished):
    config, workdir, result = finished
    assert result == read_sealed(workdir / "result.json")
    assert {path.name for path in (workdir / "plots").iterdir()} >= {"confusion.png", "weights.png"}
    evals = {r["step"]: r for r in read_metrics(workdir) if r["kind"] == "eval"}
    assert sorted(evals) == [2, 4, 6, 8, 10, 12, 14, 16]
    accuracy = {step: r["hyper_val"]["accuracy"] for step, r in evals.items() if step <= 8}
    assert result["best"]["step"] == max(accuracy, key=lambda step: (accuracy[step], step))
    for name, step in (("last", 8), ("finetuned_last", 12), ("finetuned_best", 16)):
        assert result[name]["step"] == step
        assert result[name]["test_accuracy"] == evals[step]["test"]["accuracy"]
    # The rows of a confusion matrix are the labels, its diagonal is what was right.
    splits = load_experiment(config).splits
    for name in ("last", "best", "finetuned_last", "finetuned_best"):
        for split in ("test", "hyper_val"):
            matrix = np.array(result["confusion"][name][split])
            labels = getattr(splits, split).label
            np.testing.assert_array_equal(matrix.sum(axis=1), np.bincount(labels, minlength=10))
            accuracy = result[name][f"{split}_accuracy"]
            assert np.trace(matrix) / matrix.sum() == pytest.approx(accuracy)
    lines = (workdir / "result.json").read_text().splitlines()
    assert len(lines) < 300  # a row of a matrix is a line
    table = results.table(result)
    assert f"{result['finetuned_best']['test_error']:.2%}" in table


def test_the_best_checkpoint_is_kept_and_tuned(finished):
    config, workdir, result = finished
    kept = sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())
    # The last three, and of those that would long have been dropped the best and the phases' ends.
    assert kept == [result["best"]["step"], 8, 12, 14, 16] and result["best"]["step"] < 8
    best, tuned_last = saved(workdir, result["best"]["step"]), saved(workdir, 12)
    tuned_best = saved(workdir, 16)

    def distance(first, second):
        difference = jax.tree.leaves(jax.tree.map(np.subtract, first, second))
        return np.sqrt(sum(np.sum(leaf**2) for leaf in difference))

    # Four steps at 1e-3: it moved, but little.
    assert 0 < distance(tuned_best["params"]["model"], best["params"]["model"]) < 0.05
    assert distance(tuned_last["params"]["model"], best["params"]["model"]) > 0.1
    # What is trained on is the clean set: what is remembered of the training set stays.
    chex.assert_trees_all_equal(tuned_best["history"], tuned_last["history"])
    assert tuned_last["history"]["visits"].sum() == 8 * 20
    assert best["history"]["visits"].sum() == result["best"]["step"] * 20


def test_stopped_anywhere_it_ends_the_same(finished, tmp_path, monkeypatch):
    """Killed after each checkpoint in turn: in training, and in both kinds of fine-tuning."""
    config, workdir, result = finished

    class Stopped(Exception):
        pass

    class Killed(loop.Checkpoints):
        saves = 0

        def save(self, state, *rest):
            super().save(state, *rest)
            Killed.saves += 1
            if Killed.saves == 1:  # of this process
                raise Stopped

    monkeypatch.setattr(loop, "Checkpoints", Killed)
    resumed, stops = None, 0
    while resumed is None:
        Killed.saves = 0
        try:
            resumed = train_undrawn(config, tmp_path, ONE_DEVICE)
        except Stopped:
            stops += 1
    assert stops >= 3
    assert without_times(resumed) == without_times(result)
    chex.assert_trees_all_equal(saved(tmp_path, 16), saved(workdir, 16))
    mine, whole = ([without_times(r) for r in read_metrics(path)] for path in (tmp_path, workdir))
    assert mine == whole


@pytest.mark.slow
def test_four_devices_end_where_one_does(finished, tmp_path):
    config, _, result = finished
    four = train_undrawn(config, tmp_path)
    assert four["device"].startswith("4 x")
    for name in ("last", "best", "finetuned_last", "finetuned_best"):
        assert four[name] == pytest.approx(result[name], rel=1e-3)


def test_a_tuned_run_is_not_extended(finished):
    config, workdir, _ = finished
    longer = config.copy_and_resolve_references()
    longer.num_steps = 10
    with pytest.raises(UserError, match="holds a run with another config.num_steps"):
        train_undrawn(longer, workdir, ONE_DEVICE)


@pytest.mark.slow
def test_fine_tuning_can_follow_later(finished, tmp_path):
    config, workdir, result = finished
    for finetune_from in ("none", "last", "both"):
        config = config.copy_and_resolve_references()
        config.finetune_from = finetune_from
        grown = train_undrawn(config, tmp_path, ONE_DEVICE)
    assert without_times(grown) == without_times(result)
    chex.assert_trees_all_equal(saved(tmp_path, 16), saved(workdir, 16))
    config.finetune_from = "best"
    with pytest.raises(UserError, match="holds a run with another config.finetune_from"):
        train_undrawn(config, tmp_path, ONE_DEVICE)


def test_a_stopped_run_can_end_where_it_stopped(finished, tmp_path):
    """Told to be as long as it is, it is evaluated as a run of that length."""
    config, _, _ = finished
    config = config.copy_and_resolve_references()
    config.finetune_from = "none"
    config.eval_every_steps, config.log_every_steps = 4, 2
    train_undrawn(config, tmp_path, ONE_DEVICE)
    for name in ("8", "6"):  # as a kill after the checkpoint of step 4 leaves it
        shutil.rmtree(tmp_path / "checkpoints" / name)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    kept = [line for line in lines if json.loads(line)["kind"] != "confusion"]
    (tmp_path / "metrics.jsonl").write_text("\n".join(kept) + "\n")
    config.num_steps = 4
    result = train_undrawn(config, tmp_path, ONE_DEVICE)
    assert result["last"]["step"] == result["best"]["step"] == result["num_steps"] == 4
    assert np.sum(result["confusion"]["last"]["test"]) == 599


def test_lost_records_are_written_again(finished, tmp_path, capsys):
    config, workdir, result = finished
    shutil.copytree(workdir, tmp_path / "run")
    path = tmp_path / "run" / "metrics.jsonl"
    whole = path.read_text()
    lines = whole.splitlines()
    lines[len(lines) // 2] = "damaged"
    path.write_text("\n".join(lines))
    assert train_undrawn(config, tmp_path / "run", ONE_DEVICE) == result
    assert path.read_text() == whole
    assert "run: was finished, nothing is trained" in capsys.readouterr().err


def test_weight_statistics_by_hand():
    nan = np.nan
    means = {
        "visits": np.array([1, 2, 1, 2, 1, 1, 0]),
        "weight": np.array([0.0, 2.0, 1.0, 0.0, 0.0, 3.0, nan]),
        "alignment": np.array([-1.0, 2.0, 0.5, -2.0, 0.5, 3.0, nan]),
        "margin": np.array([1.0, 1.0, 1.0, 2.0, 0.0, 0.0, nan]),
    }
    wrong = np.array([False, False, False, True, True, True, True])
    # Pairs (right, wrong): 0 against 0, 0, 3: 1/2 1/2 0; 2 against them: 1 1 0; 1: 1 1 0. 5 of 9.
    expected = {"mean_auc": 5 / 9, "wrong_mass": 3 / 6, "zero_right": 1 / 3, "zero_wrong": 2 / 3}
    # Alignment: 1, 2, and 1 and a tie; margin: 2 and 2 and 2.
    expected |= {"alignment_auc": 4.5 / 9, "margin_auc": 6 / 9}
    assert weight_statistics(means, wrong) == pytest.approx(expected)
    assert expected.keys() == set(results.WEIGHT_ROWS.values())
    del expected["alignment_auc"], means["alignment"]
    assert weight_statistics(means, wrong) == pytest.approx(expected)
    assert roc_auc_score(~wrong[:6], means["weight"][:6]) == pytest.approx(5 / 9)
    assert weight_statistics(means, np.zeros(7, bool)) == {}
    nothing = means | {"weight": np.zeros(7)}
    assert weight_statistics(nothing, wrong)["wrong_mass"] == 0
    assert weight_statistics(means | {"visits": np.zeros(7, int)}, wrong) == {}


def test_the_weights_of_a_run_are_in_its_result(noisy_config, tmp_path):
    config = noisy_config(method="weighted", finetune_from="none", num_steps=60, batch_size=50)
    config.log_every_steps = config.eval_every_steps = config.checkpoint_every_steps = 20
    result = train_undrawn(config, tmp_path, ONE_DEVICE)
    train = data.load(config, config.seed).splits.train
    wrong = train.label != train.true_label
    # Half of the weight of the background label, and nothing else, is on wrong labels; each batch's
    # weights sum to one, so that the batches' own mixture makes it vary a little.
    fractions = np.bincount(train.label, weights=~wrong) / np.bincount(train.label)
    weights = fractions[train.label]
    expected = roc_auc_score(~wrong, weights)
    assert result["weights"]["mean_auc"] == pytest.approx(expected, abs=0.03)
    share = weights[wrong].sum() / weights.sum()
    assert result["weights"]["wrong_mass"] == pytest.approx(share, abs=0.05)
    assert result["weights"]["zero_wrong"] == 0
    assert "alignment_auc" not in result["weights"]
    # examples.npz has what the statistics are made of.
    with np.load(tmp_path / "examples.npz") as arrays:
        np.testing.assert_array_equal(arrays["label"], train.label)
        np.testing.assert_array_equal(arrays["index"], train.index)
        margin = {name: arrays[name] for name in ("visits", "weight", "margin")}
        wrong = arrays["label"] != arrays["true_label"]
    assert weight_statistics(margin, wrong) == pytest.approx(result["weights"])
