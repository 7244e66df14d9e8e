"""Which examples a phase trains on: some choose by what the run remembers of them."""

import numpy as np

from reweight_jax.data.examples import Examples, concatenate
from reweight_jax.history import history_means
from reweight_jax.labels.quality import JUDGED, Judgement, judge


def judge_labels(experiment, state) -> Judgement | None:
    """Returns what the run has to say of the training labels, by its histories so far.

    None if nothing is known of what a margin says: for a task of the user's own.
    """
    if experiment.config.task not in JUDGED:
        return None
    config, splits = experiment.config, experiment.splits
    seen = {"label": splits.train.label} | history_means(state.history)
    calibration = None
    if splits.calibration is not None:
        calibration = {"label": splits.calibration.label} | history_means(state.calibration)
    return judge(seen, calibration, task=config.task, num_outputs=experiment.task.num_outputs,
                 **config.labels)  # fmt: skip


def believed(experiment, state) -> Examples:
    """Returns the examples whose label the model has believed so far: of a positive mean margin.

    Of several tags, those that it does not believe become missing. Numbers have no other label to
    prefer: the examples of regression are those that `judge_labels` does not suspect.
    """
    train, margin = experiment.splits.train, history_means(state.history)["margin"]
    if experiment.config.task == "regression":
        return _some(train, ~judge_labels(experiment, state).is_suspect)
    if margin.ndim == 1:
        return _some(train, margin > 0)
    train = train._replace(label=np.where(margin > 0, train.label, -1).astype(train.label.dtype))
    return _some(train, (train.label >= 0).any(axis=1))


def without_suspects(experiment, state) -> Examples:
    """Returns the examples whose labels are not suspect, and the clean ones."""
    kept = ~judge_labels(experiment, state).is_suspect
    return with_clean(experiment, _some(experiment.splits.train, kept))


def relabelled(experiment, state) -> Examples:
    """Returns all examples, the suspects with their suggested labels, and the clean ones."""
    judgement, train = judge_labels(experiment, state), experiment.splits.train
    label = train.label.copy()
    label[judgement.is_suspect] = judgement.suggested_label[judgement.is_suspect]
    train = train._replace(label=label)
    if experiment.config.task == "classification":  # -1: no label is suggested
        train = _some(train, label >= 0)
    return with_clean(experiment, train)


def with_clean(experiment, train: Examples) -> Examples:
    """Returns `train` with the clean examples, unless these are in the training set anyway."""
    clean = experiment.splits.clean
    if clean is None or np.isin(clean.index, experiment.splits.train.index).any():
        return train
    return concatenate(train, clean)


def _some(train, kept):
    """The rows that are kept; all of them if none is, because nothing can be said yet."""
    return train.take(np.flatnonzero(kept)) if kept.any() else train


# name -> (experiment, state) -> Examples.
SELECTIONS = {
    "train": lambda experiment, state: experiment.splits.train,
    "clean": lambda experiment, state: experiment.splits.clean,
    "all": lambda experiment, state: with_clean(experiment, experiment.splits.train),
    "believed": believed,
    "drop": without_suspects,
    "relabel": relabelled,
}
