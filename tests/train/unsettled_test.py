"""Runs that do not settle: what decides that, and how they go on."""

import shutil

import chex
import numpy as np
import pytest
from judged_runs import (
    CLOSE,
    Replay,
    Sums,
    all_tasks,
    cosine,
    examples,
    experiment,
    last_state,
    npz,
    rows_of,
    run,
)
from whole_runs import saved, without_times

from reweight_jax.records.metrics import read_metrics
from reweight_jax.train import selection


def reweighted(task, train, clean, calibration, rate):
    """A run of nine steps of reweighting in numpy: (model, after six steps, sums of all visits)."""
    replay, seen, calibrated = Replay(task, train, momentum=0.0), Sums(24), Sums(calibration.size)
    for step in range(9):
        if step == 6:
            current = replay.margins(train.inputs, train.label)
            before = seen.means()["margin"]
        rows = rows_of(train, step)
        x, y = train.inputs[rows], train.label[rows]
        seen.add(rows, replay.beliefs(x, y))
        helpful = np.maximum(replay.products(x, y, clean), 0)
        rows = rows_of(calibration, step, size=2, stream="calibration")
        calibrated.add(rows, replay.beliefs(calibration.inputs[rows], calibration.label[rows]))
        replay.step(x, y, rate, helpful / helpful.sum())
    return replay, (current, before), (seen, calibrated)


@pytest.mark.parametrize("task", all_tasks)
@pytest.mark.parametrize("rate", [0.2, 1e-4])
def test_a_model_that_learns_fast_goes_on_reweighting_and_remembering(task, rate, tmp_path):
    train, clean = examples(task, 24, 0, wrong=0.35), examples(task, 6, 1)
    calibration = examples(task, 6, 2)
    fields = {"method": "reweight", "settle_at": 2 / 3, "momentum": 0.0, "learning_rate": rate}
    result = run((train, clean, calibration), tmp_path, task, **fields)
    replay, (now, before), sums = reweighted(task, train, clean, calibration, rate)
    known = train.label >= 0 if task == "multi_label" else np.ones_like(now, bool)
    assert np.abs(now[known]).min() > 1e-4
    more = np.mean(now[known] > 0) - np.mean(before[known] > 0)
    settles = more <= 0.05
    assert settles == (rate == 1e-4 or task == "regression")
    assert result["settled"] == settles == saved(tmp_path, 9)["settles"]
    if settles:
        assert npz(tmp_path / "examples.npz")["visits"].tolist() == [2] * 24
        return
    np.testing.assert_allclose(saved(tmp_path, 9)["params"]["model"]["w"], replay.w, **CLOSE)
    for name, of in zip(("examples", "calibration"), sums, strict=True):
        arrays = npz(tmp_path / f"{name}.npz")
        assert set(arrays["visits"]) == {3}
        np.testing.assert_allclose(arrays["margin"], of.means()["margin"], **CLOSE)
    weighed = [r["step"] for r in read_metrics(tmp_path) if "weights" in r]
    assert weighed == [3, 6, 9]  # as long as weights are given
    end = saved(tmp_path, 9)
    shutil.rmtree(tmp_path / "checkpoints" / "9")  # as if it was killed between the phases
    run((train, clean, calibration), tmp_path, task, **fields)
    chex.assert_trees_all_equal(saved(tmp_path, 9), end)


def test_a_model_that_contradicts_right_labels_goes_on_reweighting(tmp_path, monkeypatch):
    monkeypatch.setattr(selection, "LEARNS_FAST", 1.0)
    train, clean = examples("classification", 24, 0, wrong=0.35), examples("classification", 6, 1)
    calibration, replay = examples("classification", 300, 2), Replay("classification", train)
    least = replay.outputs(calibration.inputs).argmin(1)  # which it is not trained to say
    calibration = calibration._replace(label=least.astype(np.int32))
    fields = {"method": "reweight", "settle_at": 2 / 3, "learning_rate": 1e-2}
    result = run((train, clean, calibration), tmp_path, **fields)
    for step in range(9):
        rows = rows_of(train, step)
        x, y = train.inputs[rows], train.label[rows]
        helpful = np.maximum(replay.products(x, y, clean), 0)
        replay.step(x, y, 1e-2, helpful / helpful.sum())
    np.testing.assert_allclose(saved(tmp_path, 9)["params"]["model"]["w"], replay.w, **CLOSE)
    assert result["settled"] is False and not saved(tmp_path, 9)["settles"]
    assert npz(tmp_path / "examples.npz")["visits"].tolist() == [3] * 24
    assert any("reweighting went on" in sentence for sentence in result["health"])
    end = saved(tmp_path, 9)
    shutil.rmtree(tmp_path / "checkpoints" / "9")
    run((train, clean, calibration), tmp_path, **fields)
    chex.assert_trees_all_equal(saved(tmp_path, 9), end)


@pytest.mark.parametrize("contradicts", [True, False])
def test_without_a_calibration_set_the_clean_examples_are_asked(contradicts, tmp_path, monkeypatch):
    monkeypatch.setattr(selection, "LEARNS_FAST", 1.0)
    train, clean = examples("classification", 24, 0), examples("classification", 40, 1)
    outputs = Replay("classification", train).outputs(clean.inputs)
    label = outputs.argmin(1) if contradicts else outputs.argmax(1)
    clean = clean._replace(label=label.astype(np.int32))
    result = run((train, clean), tmp_path, settle_at=2 / 3, learning_rate=1e-6)
    assert result["settled"] is not contradicts


@pytest.mark.parametrize("task", all_tasks)
def test_a_run_that_does_not_settle_trains_a_judge(task, tmp_path, monkeypatch):
    """It goes on from "last" with the clean examples, and tuning from "last" does not see it."""
    monkeypatch.setattr(selection, "LEARNS_FAST", -1.0)
    train, clean = examples(task, 24, 0, wrong=0.35), examples(task, 6, 1)
    calibration, test = examples(task, 6, 2), examples(task, 50, 4)
    splits = train, clean, calibration, None, test
    fields = {"lr_schedule": "cosine", "settle_at": 2 / 3, "judge_for": 1 / 3}
    fields |= {"finetune_from": "last", "finetune_steps": 3, "finetune_learning_rate": 0.1}
    result = run(splits, tmp_path, task, **fields)
    replay, losses = Replay(task, train), {}
    for step in range(9):
        rows = rows_of(train, step)
        x, y = train.inputs[rows], train.label[rows]
        helpful = np.maximum(replay.products(x, y, clean), 0)
        replay.step(x, y, cosine(step), helpful / helpful.sum())
    last, velocity = replay.w, replay.velocity
    losses["last"] = replay.loss(test.inputs, test.label)
    for name, start, rates in (
        ("judge", 9, map(cosine, (6, 7, 8))),
        ("finetuned_last", 12, [0.1] * 3),
    ):
        replay.w, replay.velocity = last, velocity
        for step, rate in enumerate(rates, start):
            rows = rows_of(clean, step)
            replay.step(clean.inputs[rows], clean.label[rows], rate)
        losses[name] = replay.loss(test.inputs, test.label)
        if name == "judge":
            judged = [replay.margins(of.inputs, of.label) for of in (train, calibration)]
    assert result["settled"] is False
    assert any("and judged the labels" in sentence for sentence in result["health"])
    assert {name: result[name]["test_loss"] for name in losses} == pytest.approx(losses, rel=1e-3)
    for name, margins in zip(("examples", "calibration"), judged, strict=True):
        arrays = npz(tmp_path / f"{name}.npz")
        assert set(arrays["visits"]) == {3}
        np.testing.assert_allclose(arrays["margin"], margins, **CLOSE)
    end = saved(tmp_path, 15)
    for step in (15, 12):  # as if it was killed at the end of the training
        shutil.rmtree(tmp_path / "checkpoints" / str(step))
    again = run(splits, tmp_path, task, **fields)
    assert without_times(again) == without_times(result)
    chex.assert_trees_all_equal(saved(tmp_path, 15), end)


def test_what_was_in_no_batch_was_not_believed(tmp_path):
    """24 examples and 4 steps of 4: a third of them has no visit. Nothing is learnt."""
    train, clean = examples("classification", 24, 0, wrong=0.35), examples("classification", 6, 1)
    fields = {"method": "reweight", "settle_at": 4 / 9, "batch_size": 4, "learning_rate": 1e-6}
    result = run((train, clean), tmp_path, **fields)
    unseen = saved(tmp_path, 4)["history"]["visits"] == 0
    margins = Replay("classification", train).margins(train.inputs, train.label)
    assert np.abs(margins).min() > 1e-5  # one parameter moves by less
    assert np.sum(margins[unseen] > 0) > 0.05 * train.size
    assert result["settled"] is False


def test_few_examples_tell_whether_a_model_learns_fast(tmp_path, monkeypatch):
    """Rows 0, 11 and 23 are asked, of which the model has got to believe the first one."""
    monkeypatch.setattr(selection, "SAMPLE", 3)
    train, clean = examples("classification", 24, 0), examples("classification", 6, 1)
    made = experiment((train, clean), settle_at=2 / 3)
    state = last_state(made)
    margins = {0: -1.0, 11: 1.0, 23: -1.0}
    sums, visits = np.full(24, -9.0, np.float32), np.full(24, 2)
    for row, margin in margins.items():
        sums[row] = 2 * margin
    history = state.history._replace(visits=visits, sums=state.history.sums | {"margin": sums})

    def predict(params, model_state, inputs):
        np.testing.assert_array_equal(inputs, train.inputs[[0, 11, 23]])
        beliefs = np.zeros((3, 3), np.float32)
        label = train.label[[0, 11, 23]]
        beliefs[[0, 1], label[:2]] = 5.0
        beliefs[2, (label[2] + 1) % 3] = 5.0
        return beliefs

    more = selection.more_believed(made, state.replace(history=history), predict)
    assert more == pytest.approx(1 / 3)
