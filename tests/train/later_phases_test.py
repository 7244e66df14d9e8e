"""Runs of several phases: what is kept of each, what may be added, and what changes nothing."""

import chex
import jax
import numpy as np
import pytest
from judged_runs import affine_model, examples, experiment, last_state, npz, run
from whole_runs import ONE_DEVICE, saved, without_times

from reweight_jax import UserError, load
from reweight_jax.data.examples import LazyInputs, Part
from reweight_jax.data.splits import make_data
from reweight_jax.records.workdir import Workdir
from reweight_jax.train import devices as on_devices
from reweight_jax.train import evaluate, loop, outputs, selection
from reweight_jax.train.config import make_experiment

TASK = "classification"


@pytest.mark.parametrize("size", [10, 3])
def test_a_chunk_that_four_devices_cannot_share_is_counted_once(size):
    splits = examples(TASK, 24, 0), examples(TASK, 8, 1), examples(TASK, size, 2)
    one, four = (
        last_state(experiment(splits, clean_batch_size=8, devices=jax.devices()[:n]))
        for n in (1, 4)
    )
    chex.assert_trees_all_close(four, one, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize(("learns_fast", "judge"), [(1.0, False), (-1.0, True)])
def test_every_phase_of_the_result_predicts(learns_fast, judge, tmp_path, monkeypatch):
    monkeypatch.setattr(selection, "LEARNS_FAST", learns_fast)
    splits = examples(TASK, 24, 0), examples(TASK, 8, 1)
    fields = {"settle_at": 2 / 3, "judge_for": 0.01, "compare_plain": True, "retrain": "drop"}
    result = run(splits, tmp_path, checkpoint_every_steps=3, **fields)
    fitted = load(tmp_path, model=affine_model(3))
    assert fitted.result == result
    names = ["unsettled", "last", "plain", "retrained", "best"]
    if judge:
        names = [*names[:2], "judge", *names[2:4], "judge_retrained", "best"]
    predicted = [fitted.predict(splits[0].inputs, name) for name in names]
    for i in range(len(names) - 2):
        assert np.abs(predicted[i] - predicted[i + 1]).max() > 1e-6


def test_the_first_phase_has_at_least_a_step(tmp_path):
    result = run((examples(TASK, 24, 0), examples(TASK, 8, 1)), tmp_path, settle_at=0.01)
    assert result["unsettled"]["step"] == 1


def test_phases_added_later_are_those_of_one_run(tmp_path):
    splits = examples(TASK, 24, 0), examples(TASK, 8, 1), examples(TASK, 6, 2)
    first, whole = tmp_path / "a", tmp_path / "b"
    run(splits, first)
    fields, tuning = {"finetune_steps": 4}, {"finetune_from": "retrained"}
    for field in ({"judge_for": 1 / 3}, {"compare_plain": True}, {"retrain": "drop"}, tuning):
        fields |= field
        grown = run(splits, first, **fields)
    assert without_times(grown) == without_times(run(splits, whole, **fields))
    assert [grown[name]["step"] for name in ("last", "judge", "plain")] == [9, 12, 21]
    names = "retrained", "judge_retrained", "finetuned_retrained"
    steps = [grown[name]["step"] for name in names]
    assert steps == [30, 33, 37]
    for each in steps:
        chex.assert_trees_all_equal(saved(first, each), saved(whole, each))
    # The model that was retrained is tuned, not that of the training, nor the judge.
    params, tuned = (saved(whole, each)["params"]["model"] for each in steps[::2])
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), params, tuned)
    assert 0 < max(jax.tree.leaves(moved)) < 0.1
    assert grown["finetuned_retrained"]["clean_loss"] < grown["retrained"]["clean_loss"]


@pytest.mark.parametrize("method", ["reweight", "baseline", "clean_only"])
def test_after_retraining_the_margin_is_the_mean_of_what_was_known_and_of_the_retrained(
    method, tmp_path
):
    splits = examples(TASK, 24, 0, wrong=0.3), examples(TASK, 8, 1), examples(TASK, 6, 2)
    run(splits, tmp_path, method=method)
    names = {"examples": splits[0], "calibration": splits[2]}
    before = {name: npz(tmp_path / f"{name}.npz")["margin"] for name in names}
    run(splits, tmp_path, method=method, retrain="drop")
    fitted = load(tmp_path, model=affine_model(3))
    for name, part in names.items():
        beliefs = np.log(fitted.predict(part.inputs, "retrained"))
        rows = np.arange(part.size), part.label
        own = beliefs[rows]
        beliefs[rows] = -np.inf
        margins = own - beliefs.max(axis=1)
        if method == "clean_only":  # nothing is known of the training examples before
            assert name == "calibration" or np.isnan(before[name]).all()
        else:
            margins = (margins + before[name]) / 2
        after = npz(tmp_path / f"{name}.npz")["margin"]
        np.testing.assert_allclose(after, margins, rtol=1e-4, atol=1e-5)


def test_there_must_be_a_retrained_model_to_tune(tmp_path):
    splits = examples(TASK, 24, 0), examples(TASK, 8, 1)
    with pytest.raises(UserError, match="config.finetune_from: 'retrained'; only with config.retr"):
        run(splits, tmp_path, finetune_from="retrained")


@pytest.mark.parametrize(
    "fields", [{"finetune_from": "last"}, {"finetune_from": "retrained", "retrain": "drop"}]
)
def test_fine_tuning_that_diverged_goes_on_with_another_rate(fields, tmp_path):
    splits = examples(TASK, 24, 0), examples(TASK, 8, 1), examples(TASK, 6, 2)
    fields = fields | {"finetune_steps": 3, "log_every_steps": 1}
    with pytest.raises(UserError, match="Lower config.finetune_learning_rate"):
        run(splits, tmp_path / "a", finetune_learning_rate=1e38, **fields)
    resumed, whole = (
        run(splits, tmp_path / name, finetune_learning_rate=1e-3, **fields) for name in "ab"
    )
    assert without_times(resumed) == without_times(whole)


@pytest.mark.parametrize("task", [TASK, "regression"])
def test_the_rates_of_a_settled_run_are_fixed(task, tmp_path, digits_config):
    before = {"task": task, "settle_at": 0.5}
    old = Workdir(tmp_path, digits_config(**before), {}).content
    new = Workdir(tmp_path, digits_config(**before, **{"labels.false_alarm_rate": 0.2}), {})
    with pytest.raises(UserError, match="labels.false_alarm_rate"):
        new.check(old, 5)


@pytest.mark.parametrize("every", [{}, {"log_every_steps": 1}])
def test_the_length_of_dispatches_changes_no_number(every):
    splits = examples(TASK, 24, 0), examples(TASK, 8, 1), examples(TASK, 6, 2)
    one, many = (
        last_state(experiment(splits, TASK, **fields))
        for fields in ({}, {"steps_per_dispatch": 3, **every})
    )
    chex.assert_trees_all_close(one.params, many.params, rtol=1e-5)
    chex.assert_trees_all_close(one.calibration, many.calibration, rtol=1e-4)


def test_health_is_told_of_the_model_of_the_training(tmp_path, monkeypatch):
    """With or without a plain phase behind it, the margins of the trusted examples are the same."""
    got = []
    monkeypatch.setattr(outputs, "health", lambda *arguments: got.append(arguments[3]) or [])
    splits = examples(TASK, 24, 0, wrong=0.4), examples(TASK, 8, 1), examples(TASK, 6, 2)
    for name, plain in (("without", False), ("with", True)):
        run(splits, tmp_path / name, compare_plain=plain)
    chex.assert_trees_all_close(got[0]["clean"]["margin"], got[1]["clean"]["margin"], rtol=1e-4)


@pytest.mark.parametrize(
    "fields", [{"data.num_train": 24}, {"data.num_train": 24, "data.clean_in_train": "always"}]
)
def test_health_names_the_rows_of_the_users_own_parts(fields, tmp_path, monkeypatch):
    """Also if num_train cuts the training set, and calibration is drawn from the clean one."""
    got = []
    monkeypatch.setattr(outputs, "health", lambda *arguments: got.append(arguments[3]) or [])
    x = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    y = np.arange(40) % 3
    parts = {"train": Part(x, y), "clean": Part(x[:18] + 1, y[:18])}
    config = experiment((examples(TASK, 24, 0), examples(TASK, 6, 1)), TASK).config
    config.update_from_flattened_dict({"data.num_calibration": 6, "data.num_hyper_val": 6} | fields)
    made = make_experiment(config, make_data(parts, config, 3), affine_model(3), ONE_DEVICE)
    loop.train(made, tmp_path, progress=False, draw=False)
    for name in ("clean", "calibration"):
        inputs = getattr(made.splits, name).inputs
        np.testing.assert_array_equal(inputs, x[got[0][name]["index"]] + 1)


def test_health_says_which_rows_were_moved_to_the_trusted_set(tmp_path, monkeypatch):
    got = []
    monkeypatch.setattr(outputs, "health", lambda *arguments: got.append(arguments[3]) or [])
    x = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    y = np.arange(40) % 3
    (tmp_path / "moved.csv").write_text("index,decision,new_label\n3,clean,0\n5,calibration,2\n")
    parts = {"train": Part(x, y), "clean": Part(x[:5], y[:5])}
    config = experiment((examples(TASK, 24, 0), examples(TASK, 6, 1)), TASK).config
    config.data.corrections, config.data.num_hyper_val = str(tmp_path / "moved.csv"), 0
    made = make_experiment(config, make_data(parts, config, 3), affine_model(3), ONE_DEVICE)
    loop.train(made, tmp_path / "run", progress=False, draw=False)
    assert got[0]["clean"]["index"].tolist() == ["0", "1", "2", "3", "4", "row 3 of train"]
    assert got[0]["calibration"]["index"].tolist() == ["row 5 of train"]


def test_many_classes_have_no_confusion_matrix(tmp_path, monkeypatch):
    """It would be K * K numbers at every best step."""
    splits = examples(TASK, 24, 0), examples(TASK, 6, 1), None, None, examples(TASK, 6, 2)
    assert "confusion" in run(splits, tmp_path / "few")
    monkeypatch.setattr(evaluate, "MAX_CONFUSED", 2)
    result = run(splits, tmp_path / "many")
    assert "confusion" not in result and "test_accuracy" in result["last"]
    assert '"confusion"' not in (tmp_path / "many" / "metrics.jsonl").read_text()
    assert run(splits, tmp_path / "many", compare_plain=True)["plain"]["step"] == 18


def test_wrong_values_are_dropped_if_no_others_are_remembered(tmp_path):
    splits = [examples("regression", 40, 0, wrong=0.3), examples("regression", 8, 1)]
    splits += [None, None, examples("regression", 20, 2)]
    results = [
        run(splits, tmp_path / retrain, "regression", retrain=retrain, remember_megabytes=0)
        for retrain in ("drop", "relabel")
    ]
    assert results[0]["retrained"] == results[1]["retrained"]
    whole = run(splits, tmp_path / "plain", "regression", compare_plain=True)
    assert whole["plain"]["test_rmse"] != results[1]["retrained"]["test_rmse"]


@pytest.mark.parametrize("standardize", [True, False])
def test_lazy_inputs_are_read_if_they_are_to_be_resident(standardize, tmp_path):
    splits = [examples(TASK, 24, 0), examples(TASK, 8, 1)]
    fields = {"data.standardize": standardize}
    usual = run(splits, tmp_path / "a", **fields)
    splits[0] = splits[0]._replace(inputs=LazyInputs(splits[0].inputs))
    lazy = run(splits, tmp_path / "b", **fields)
    assert without_times(lazy) == without_times(usual)
    if standardize:
        with pytest.raises(
            UserError, match="config.data.standardize: True, but the inputs are stre"
        ):
            experiment(splits, TASK, **fields, **{"data.resident": False})


def test_a_phase_does_not_keep_the_data_of_the_one_before(tmp_path, monkeypatch):
    bind, alive = on_devices.bind_data, []

    def counted(*arguments, **options):
        alive.append(sum(array.shape == (24, 4) for array in jax.live_arrays()))
        return bind(*arguments, **options)

    monkeypatch.setattr(on_devices, "bind_data", counted)
    splits = examples(TASK, 24, 0), examples(TASK, 24, 1)  # `shared_size` leaves 24 as it is
    run(splits, tmp_path, compare_plain=True, retrain="drop", **{"data.clean_in_train": "never"})
    assert len(alive) == 3 and alive[1:] == [alive[0]] * 2


@pytest.mark.parametrize("retrain", ["drop", pytest.param("relabel", marks=pytest.mark.slow)])
def test_trusted_examples_keep_their_labels_in_retraining(retrain, tmp_path, monkeypatch):
    """Also those that were trained on, and that the model contradicts."""
    select, chosen = selection.SELECTIONS[retrain], []

    def recorded(*arguments):
        chosen.append(select(*arguments))
        return chosen[-1]

    monkeypatch.setitem(selection.SELECTIONS, retrain, recorded)
    clean = examples(TASK, 8, 1)
    clean = clean._replace(label=(clean.label + 1) % 3)
    fields = {"method": "baseline", "data.clean_in_train": "always", "retrain": retrain}
    splits = examples(TASK, 24, 0, wrong=0.3), clean, examples(TASK, 6, 2)
    run(splits, tmp_path, num_steps=60, **fields)
    label = dict(zip(chosen[0].index.tolist(), chosen[0].label.tolist(), strict=True))
    assert [label[index] for index in clean.index.tolist()] == clean.label.tolist()
    with np.load(tmp_path / "examples.npz") as arrays:
        assert arrays["is_trusted"].sum() == 8
        assert arrays["margin"][arrays["is_trusted"]].min() < 0
