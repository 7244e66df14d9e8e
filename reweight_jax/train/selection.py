"""What a run says of its labels, and which examples its later phases therefore train on."""

import jax.numpy as jnp
import numpy as np

from reweight_jax.data.examples import Examples, concatenate
from reweight_jax.history import History, history_means
from reweight_jax.labels.quality import JUDGED, Judgement, judge
from reweight_jax.train import hosts


def what_is_known(experiment, state, split: str) -> dict[str, np.ndarray]:
    """Returns what is known of each example of a split, "train" or "calibration", one entry each.

    index, label, true_label and id if they are known, visits, and means: over the visits in
    training, or, if the labels were reviewed, what the review says.
    """
    examples = getattr(experiment.splits, split)
    known = {"index": examples.index, "label": examples.label}
    if examples.true_label is not None:
        known["true_label"] = examples.true_label
    if experiment.ids is not None:
        known["id"] = experiment.ids[examples.index]
    known |= history_means(state.history if split == "train" else state.calibration)
    if split in state.review and state.review[split].visits[0]:
        reviewed = history_means(state.review[split])
        known |= {name: values for name, values in reviewed.items() if name != "visits"}
    return known


def judge_labels(experiment, state) -> Judgement | None:
    """Returns what the run has to say of the training labels so far.

    None if nothing is known of what a margin says: for a task of the user's own.
    """
    config, splits = experiment.config, experiment.splits
    if config.task not in JUDGED:
        return None
    train, calibration = what_is_known(experiment, state, "train"), None
    if splits.calibration is not None:
        calibration = what_is_known(experiment, state, "calibration")
    options = {"task": config.task, "num_outputs": experiment.task.num_outputs}
    return judge(train, calibration, **options, **config.labels)


def review(experiment, state, predict):
    """Returns the state with `state.review` of one visit to each training and calibration example.

    The model is in evaluation mode and its inputs are not augmented. `predict`: as
    `evaluate.compile_predict` returns it.
    """
    reviewed = {split: _current(experiment, state, predict, split) for split in state.review}
    return _with_review(state, reviewed)


def review_if_it_helps(experiment, state, predict):
    """Returns the state with a review of which a half is the mean over the visits in training.

    That mean lags behind a model that still learns fast, and the model by itself repeats its own
    mistakes. For an example that was in no batch the model's value counts. The state changes only
    if the current model is clearly better on the calibration examples than the mean (`knows_more`);
    never for regression, whose margins are not positive.
    """
    if "calibration" not in state.review:
        return state
    visits = {"train": state.history, "calibration": state.calibration}
    current = {"calibration": _current(experiment, state, predict, "calibration")}
    before = history_means(visits["calibration"])["margin"]
    # Sums may be rounded differently by two processes, and what follows is of all of them.
    if not hosts.from_first(lambda: knows_more(current["calibration"]["margin"], before)):
        return state
    current["train"] = _current(experiment, state, predict, "train")
    reviewed = {}
    for split, history in visits.items():
        means = history_means(history)
        reviewed[split] = {
            name: np.where(np.isnan(means[name]), values, (means[name] + values) / 2)
            for name, values in current[split].items()
        }
    return _with_review(state, reviewed)


def to_settle(experiment, state, predict):
    """Reviews if it helps, and decides whether what is known of the labels is enough to settle on.

    It is not if the model contradicts too many calibration examples, whose labels are right
    (`calibrated.contradicts`): the right labels that are hard to learn would be lost.
    """
    state = review_if_it_helps(experiment, state, predict)
    settles = hosts.from_first(lambda: not judge_labels(experiment, state).summary["contradicted"])
    return state.replace(settles=jnp.asarray(settles))


def if_settled(experiment, state, predict):
    """Reviews: a model that was trained on the labels believed tells more than the means before."""
    return (review if state.settles else review_if_it_helps)(experiment, state, predict)


# What `Phase.reviews` names -> (experiment, state, predict) -> state.
REVIEWS = {"always": review, "to_settle": to_settle, "if_settled": if_settled}


def knows_more(current: np.ndarray, before: np.ndarray) -> bool:
    """Returns whether margins of right labels are clearly better than others of the same labels.

    By a sign test at 5%: of the examples (or tags) that only one of them gets right, enough are on
    the side of `current`. Where one is NaN, neither is right.
    """
    from scipy.stats import binomtest

    known = ~(np.isnan(current) | np.isnan(before))
    wins = int(np.sum(known & (current > 0) & (before <= 0)))
    losses = int(np.sum(known & (before > 0) & (current <= 0)))
    if not wins:
        return False
    return bool(binomtest(wins, wins + losses, alternative="greater").pvalue <= 0.05)


def _current(experiment, state, predict, split):
    """Returns what the current model makes of the examples of a split, as a history holds it."""
    task, examples = experiment.task, getattr(experiment.splits, split)
    outputs = predict(state.params["model"], state.model_state, examples.inputs)
    values = {"margin": task.margin(outputs, examples.label)}
    values |= {name: of(outputs) for name, of in task.remembered.items()}
    return {name: np.asarray(values[name], np.float32) for name in state.review[split].sums}


def _with_review(state, reviewed):
    review = {}
    for split, values in reviewed.items():
        sums = {name: jnp.asarray(value, jnp.float32) for name, value in values.items()}
        review[split] = History(jnp.ones(len(values["margin"]), jnp.int32), sums)
    return state.replace(review=review)


# --- What phases train on -------------------------------------------------------------------------


def kept(experiment, state) -> Examples:
    """Returns the training examples that `Judgement.keep` names, and the clean ones.

    Of several tags, those that are not kept become missing.
    """
    keep, train = judge_labels(experiment, state).keep, experiment.splits.train
    if keep.ndim > 1:
        train = train._replace(label=np.where(keep, train.label, -1).astype(train.label.dtype))
        keep = (train.label >= 0).any(axis=1)
    if keep.any():  # else nothing is known yet
        train = train.take(np.flatnonzero(keep))
    return with_clean(experiment, train)


def relabelled(experiment, state) -> Examples:
    """Returns all training examples, with other labels than those not kept, and the clean ones.

    Those not kept are left out if the model is no better judge: if it contradicts right labels.
    """
    judgement, train = judge_labels(experiment, state), experiment.splits.train
    if judgement.summary["contradicted"]:
        return kept(experiment, state)
    keep = judgement.keep.reshape(-1, *judgement.keep.shape[1:] or [1] * (train.label.ndim - 1))
    label = np.where(keep, train.label, judgement.suggested_label).astype(train.label.dtype)
    train = train._replace(label=label)
    if experiment.config.task == "classification":  # -1: no label is suggested
        train = train.take(np.flatnonzero(train.label >= 0))
    return with_clean(experiment, train)


def with_clean(experiment, train: Examples) -> Examples:
    """Returns `train` with the clean examples, unless these are in the training set anyway."""
    clean = experiment.splits.clean
    if clean is None or np.isin(clean.index, experiment.splits.train.index).any():
        return train
    return concatenate(train, clean)


# name -> (experiment, state) -> Examples.
SELECTIONS = {
    "train": lambda experiment, state: experiment.splits.train,
    "clean": lambda experiment, state: experiment.splits.clean,
    "all": lambda experiment, state: with_clean(experiment, experiment.splits.train),
    "believed": kept,
    "drop": kept,
    "relabel": relabelled,
}
