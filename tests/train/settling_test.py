"""Settling, plain and retrained phases: what they train on, where they start, what they leave."""

import numpy as np
import pytest
from judged_runs import (
    CLOSE,
    Replay,
    Sums,
    cosine,
    examples,
    experiment,
    npz,
    rows_of,
    run,
)
from whole_runs import saved

from reweight_jax.configs import default
from reweight_jax.train import selection
from reweight_jax.train.phases import phases_of
from reweight_jax.train.selection import SELECTIONS
from reweight_jax.train.state import create_train_state


@pytest.fixture
def settles_early(monkeypatch):
    """In 6 steps of 9 every model still learns fast."""
    monkeypatch.setattr(selection, "LEARNS_FAST", 1.0)


def test_phases_of_a_config():
    def spans(num_examples=24, settles=True, **fields):
        config = default.get_config()
        config.num_steps, config.finetune_steps, config.batch_size = 9, 2, 8
        config.update_from_flattened_dict(fields)
        return [
            (p.name, p.start, p.stop, p.begin, p.examples, p.method.needs_clean)
            for p in phases_of(config, num_examples, settles)
        ]

    reweighted = ("last", 0, 9, "before", "train", True)
    assert spans() == [reweighted]
    settled = [
        ("unsettled", 0, 6, "before", "train", True),
        ("last", 6, 9, "before", "believed", False),
    ]
    assert spans(settle_at=2 / 3) == settled
    assert spans(settle_at=2 / 3, compare_plain=True, finetune_from="last", retrain="drop") == [
        *settled,
        ("finetuned_last", 9, 11, 9, "clean", False),
        ("plain", 11, 20, "afresh", "all", False),
        ("retrained", 20, 29, "afresh", "drop", False),
    ]
    assert spans(retrain="relabel")[1:] == [("retrained", 9, 18, "afresh", "relabel", False)]
    # One pass over 24 examples in batches of 8; at most half of the steps before it settles.
    warm_up = ("warm_up", 0, 3, "before", "train", False)
    assert spans(warm_up=1.0) == [warm_up, ("last", 3, 9, "before", "train", True)]
    unsettled = ("unsettled", 3, 6, "before", "train", True)
    for passes in (1.0, 5.0):
        assert spans(warm_up=passes, settle_at=2 / 3) == [warm_up, unsettled, settled[1]]
    assert spans(warm_up=1 / 3)[0][:3] == ("warm_up", 0, 1)
    assert spans(warm_up=9.0)[0][:3] == ("warm_up", 0, 4)
    # A whole pass is left: of 40 examples five steps, of 80 ten.
    assert spans(40, warm_up=1.0, settle_at=2 / 3)[:2] == [
        ("warm_up", 0, 1, "before", "train", False),
        ("unsettled", 1, 6, "before", "train", True),
    ]
    assert spans(80, warm_up=1.0, settle_at=2 / 3) == settled
    # A task of the user's own does not settle, so the cap is of all steps.
    own = spans(warm_up=9.0, settle_at=2 / 3, task="own")
    assert [phase[:3] for phase in own] == [("warm_up", 0, 4), ("last", 4, 9)]
    assert spans(num_steps=1, warm_up=1.0) == [("last", 0, 1, "before", "train", True)]
    # A run that does not settle goes on, and a judge comes before all other phases.
    judge = ("judge", 9, 12, "before", "clean", False)
    tuned = ("finetuned_last", 12, 14, 9, "clean", False)
    assert spans(judge_for=1 / 3) == [reweighted, judge]
    assert spans(settle_at=2 / 3, judge_for=1 / 3) == settled
    assert spans(settles=False, settle_at=2 / 3, judge_for=1 / 3, finetune_from="last") == [
        settled[0],
        ("last", 6, 9, "before", "train", True),
        judge,
        tuned,
    ]
    assert len(spans(task="own", judge_for=1 / 3)) == 1
    # What is retrained has a judge of its own, and is tuned without it.
    assert spans(judge_for=1 / 3, retrain="drop", finetune_from="retrained")[2:] == [
        ("retrained", 12, 21, "afresh", "drop", False),
        ("judge_retrained", 21, 24, "before", "clean", False),
        ("finetuned_retrained", 24, 26, 21, "clean", False),
    ]
    # A method without a clean gradient is plain all the time.
    of_baseline = spans(warm_up=1.0, settle_at=2 / 3, judge_for=1.0, method="baseline")
    assert of_baseline == [("last", 0, 9, "before", "train", False)]


# --- Against numpy --------------------------------------------------------------------------------


def joined(x, y, clean):
    return clean._replace(
        inputs=np.concatenate([x, clean.inputs]), label=np.concatenate([y, clean.label])
    )


def believed(task, labels, margin, calibration_margin):
    """Which labels are believed, as the docs say it, or which tags."""
    if task != "regression":
        assert np.abs(margin[labels >= 0]).min() > 1e-3  # clear of rounding
        return margin > 0
    # Of 6 calibration examples a p-value is at most 0.2 only below all of them.
    assert np.abs(margin - calibration_margin.min()).min() > 1e-3
    return margin >= calibration_margin.min()


@pytest.mark.parametrize(
    ("task", "retrain", "warm"),
    [
        ("classification", "drop", 3),
        ("classification", "relabel", 0),
        ("multi_label", "drop", 0),
        pytest.param("multi_label", "relabel", 0, marks=pytest.mark.slow),
        pytest.param("regression", "drop", 3, marks=pytest.mark.slow),
        ("regression", "relabel", 0),
    ],
)
def test_a_run_of_all_phases_is_what_numpy_finds(task, retrain, warm, tmp_path, settles_early):
    """Warmed up, reweighted, settled, plain and retrained, with momentum along a cosine."""
    train, clean = examples(task, 24, 0, wrong=0.35), examples(task, 6, 1)
    calibration, test = examples(task, 6, 2), examples(task, 50, 4)
    fields = {"settle_at": 2 / 3, "compare_plain": True, "retrain": retrain}
    fields |= {"lr_schedule": "cosine", "labels.false_alarm_rate": 0.2, "warm_up": warm / 3}
    result = run((train, clean, calibration, None, test), tmp_path, task, **fields)

    replay, seen, calibrated = Replay(task, train), Sums(24), Sums(6)
    losses = {}
    for step in range(warm):
        rows = rows_of(train, step)
        replay.step(train.inputs[rows], train.label[rows], cosine(step))
    if warm:
        losses["warm_up"] = replay.loss(test.inputs, test.label)
    for step in range(warm, 6):
        rows = rows_of(train, step)
        x, y = train.inputs[rows], train.label[rows]
        seen.add(rows, replay.beliefs(x, y))
        helpful = np.maximum(replay.products(x, y, clean), 0)
        rows = rows_of(calibration, step, size=2, stream="calibration")
        calibrated.add(rows, replay.beliefs(calibration.inputs[rows], calibration.label[rows]))
        replay.step(x, y, cosine(step), helpful / helpful.sum())
    losses["unsettled"] = replay.loss(test.inputs, test.label)

    def chosen(labels, margin, calibration_margin, suggested):
        """The training set of the next phase."""
        keep = believed(task, labels, margin, calibration_margin)
        assert 0.2 < keep.mean() < 0.9
        if suggested is not None:
            keep = keep if keep.shape == labels.shape else keep[:, None]
            return joined(train.inputs, np.where(keep, labels, suggested), clean)
        if task == "multi_label":
            labels, keep = np.where(keep, labels, -1), keep.any(axis=1)
        return joined(train.inputs[keep], labels[keep], clean)

    means = seen.means()
    part = chosen(train.label, means["margin"], calibrated.means()["margin"], None)
    assert part.size < 30 or task == "multi_label"
    for step in range(6, 9):  # the optimiser and the schedule go on
        rows = rows_of(part, step)
        replay.step(part.inputs[rows], part.label[rows], cosine(step))
    losses["last"] = replay.loss(test.inputs, test.label)

    # The model reviews all labels: what it makes of them now decides.
    beliefs = replay.beliefs(train.inputs, train.label)
    calibration_margin = replay.margins(calibration.inputs, calibration.label)
    suggested = None
    if retrain == "relabel":
        suggested = {
            "classification": lambda: beliefs["log_probability"].argmax(1),
            "multi_label": lambda: np.where(train.label >= 0, 1 - train.label, -1),
            "regression": lambda: beliefs["prediction"],
        }[task]()
    part = chosen(train.label, beliefs["margin"], calibration_margin, suggested)
    whole = joined(train.inputs, train.label, clean)
    for name, of, start in (("plain", whole, 9), ("retrained", part, 18)):
        replay.afresh()
        for step in range(9):
            rows = rows_of(of, start + step)
            replay.step(of.inputs[rows], of.label[rows], cosine(step))
        losses[name] = replay.loss(test.inputs, test.label)

    got = {name: result[name]["test_loss"] for name in losses}
    assert got == pytest.approx(losses, rel=1e-3)
    np.testing.assert_allclose(saved(tmp_path, 27)["params"]["model"]["w"], replay.w, **CLOSE)
    stops = {"unsettled": 6, "last": 9, "plain": 18, "retrained": 27}
    assert {name: result[name]["step"] for name in stops} == stops
    # Only the reweighted steps are visits; the margins are the mean of those of both reviews.
    reviewed = (
        ("examples", train, beliefs["margin"]),
        ("calibration", calibration, calibration_margin),
    )
    for name, of, before in reviewed:
        arrays = npz(tmp_path / f"{name}.npz")
        np.testing.assert_array_equal(arrays["visits"], (6 - warm) // 3)
        margins = (before + replay.margins(of.inputs, of.label)) / 2
        np.testing.assert_allclose(arrays["margin"], margins, **CLOSE)


def test_where_nothing_is_believed_all_is_kept(tmp_path, settles_early):
    """All labels are of the class that the first parameters find least probable."""
    train, clean = examples("classification", 24, 0), examples("classification", 6, 1)
    replay = Replay("classification", train)
    train = train._replace(label=replay.outputs(train.inputs).argmin(1).astype(np.int32))
    fields = {"method": "reweight", "settle_at": 1 / 3, "learning_rate": 1e-3}
    run((train, clean), tmp_path, **fields)
    for step in range(3):
        rows = rows_of(train, step)
        x, y = train.inputs[rows], train.label[rows]
        assert (replay.margins(x, y) < 0).all()
        helpful = np.maximum(replay.products(x, y, clean), 0)
        replay.step(x, y, 1e-3, helpful / helpful.sum())
    part = joined(train.inputs, train.label, clean)
    for step in range(3, 9):
        rows = rows_of(part, step)
        replay.step(part.inputs[rows], part.label[rows], 1e-3)
    np.testing.assert_allclose(
        saved(tmp_path, 9)["params"]["model"]["w"], replay.w, rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("name", ["drop", "believed"])
@pytest.mark.parametrize("task", ["classification", "multi_label"])
def test_where_nothing_is_known_all_labels_are_kept(task, name):
    """A run on the clean examples alone remembers nothing of the training labels."""
    train, clean = examples(task, 24, 0, wrong=0.3), examples(task, 6, 1)
    made = experiment((train, clean), task, method="clean_only")
    selected = SELECTIONS[name](made, create_train_state(made))
    np.testing.assert_array_equal(selected.label, np.concatenate([train.label, clean.label]))
    np.testing.assert_array_equal(selected.inputs, np.concatenate([train.inputs, clean.inputs]))


def test_clean_examples_in_the_training_set_are_not_added_again(tmp_path):
    train, clean = examples("classification", 18, 0, wrong=0.3), examples("classification", 6, 1)
    fields = {"data.clean_in_train": "always", "compare_plain": True}
    run((train, clean), tmp_path, **fields)
    replay, whole = Replay("classification", train), joined(train.inputs, train.label, clean)
    for step in range(9, 18):
        rows = rows_of(whole, step)
        replay.step(whole.inputs[rows], whole.label[rows])
    np.testing.assert_allclose(saved(tmp_path, 18)["params"]["model"]["w"], replay.w, **CLOSE)
    assert npz(tmp_path / "examples.npz")["visits"].tolist() == [3] * 24
