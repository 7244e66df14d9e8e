"""What a run says of its labels, and which examples its later phases therefore train on."""

import jax.numpy as jnp
import numpy as np

from reweight_jax.data.examples import Examples, concatenate
from reweight_jax.history import History, history_means
from reweight_jax.labels.quality import JUDGED, Judgement, judge


def what_is_known(experiment, state, split: str) -> dict[str, np.ndarray]:
    """Returns what is known of each example of a split, "train" or "calibration", one entry each.

    index, label, true_label and id if they are known, visits, and means: over the visits in
    training, or, if the labels were reviewed, what the model of then makes of them.
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


def review(experiment, state, predict, *, only_if_better: bool = False):
    """Returns the state with `state.review` of one visit to each training and calibration example.

    The model is in evaluation mode and its inputs are not augmented. `predict`: as
    `evaluate.compile_predict` returns it. `only_if_better`: leaves the state as it is unless the
    calibration examples say that the model of now tells more than the means over the training so
    far, which few visits by a model that still learns fast make poor.
    """

    def of_split(split):
        task, examples = experiment.task, getattr(experiment.splits, split)
        outputs = predict(state.params["model"], state.model_state, examples.inputs)
        values = {"margin": task.margin(outputs, examples.label)}
        values |= {name: of(outputs) for name, of in task.remembered.items()}
        sums = {name: jnp.asarray(values[name], jnp.float32) for name in state.review[split].sums}
        return History(jnp.ones(examples.size, jnp.int32), sums)

    if only_if_better:
        if "calibration" not in state.review:
            return state
        now = history_means(of_split("calibration"))["margin"]
        so_far = history_means(state.calibration)["margin"]
        if experiment.task.name == "regression":  # a distance has no sign
            is_better = now.mean() > so_far.mean()  # not so if one was never visited: NaN
        else:
            is_better = np.sum(now > 0) > np.sum(so_far > 0)
        if not is_better:
            return state
    return state.replace(review={split: of_split(split) for split in state.review})


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
    """Returns all training examples, with other labels than those not kept, and the clean ones."""
    judgement, train = judge_labels(experiment, state), experiment.splits.train
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
