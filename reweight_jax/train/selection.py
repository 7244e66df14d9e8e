"""What a run says of its labels, and which examples its later phases therefore train on."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from reweight_jax.data.examples import Examples, concatenate
from reweight_jax.history import History, history_means
from reweight_jax.labels.calibrated import contradicts
from reweight_jax.labels.quality import JUDGED, Judgement, judge
from reweight_jax.train import hosts
from reweight_jax.train.resident import padded, shared_size
from reweight_jax.train.step import beliefs

LEARNS_FAST = 0.05  # share of the labels that the model believes now and did not on the mean
SAMPLE = 10_000  # training examples that tell


def what_is_known(experiment, state, split: str) -> dict[str, np.ndarray]:
    """Returns what is known of each example of a split, "train" or "calibration", one entry each.

    index, label, is_trusted if clean examples are trained on too, true_label and id if they are
    known, visits, and means: over the visits in training, or, if the labels were reviewed, what the
    review says.
    """
    examples, clean = getattr(experiment.splits, split), experiment.splits.clean
    known = {"index": examples.index, "label": examples.label}
    is_trusted = np.isin(examples.index, [] if clean is None else clean.index)
    if is_trusted.any():
        known["is_trusted"] = is_trusted
    if examples.true_label is not None:
        known["true_label"] = examples.true_label
    if experiment.ids is not None:
        known["id"] = experiment.ids[examples.index]
    history = state.history if split == "train" else state.calibration
    known |= history_means(history, examples.size)
    if split in state.review and np.asarray(state.review[split].visits)[0]:
        reviewed = history_means(state.review[split], examples.size)
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
    options["classes"] = experiment.classes
    return judge(train, calibration, **options, **config.labels)


def review(experiment, state, predict, *, alone: bool):
    """Returns the state with `state.review` of one visit to each training and calibration example.

    A model that was trained on the labels believed, or in the end on the clean ones alone, tells
    more than the means before. It is in evaluation mode and its inputs are not augmented.

    Args:
      predict: as `evaluate.compile_predict` returns it.
      alone: whether only this model judges the labels from then on. If not, it is the mean of what
        it says and of what was known before: two trainings tell more than either.
    """
    reviewed = {}
    for split, history in state.review.items():
        examples = getattr(experiment.splits, split)
        outputs = predict(state.params["model"], state.model_state, examples.inputs)
        said = _said(experiment, outputs, examples.label, *history.sums)
        sums = {name: np.array(said[name], np.float32) for name in history.sums}
        if not alone:
            before = what_is_known(experiment, state, split)
            for name, values in sums.items():
                of_examples, seen = values[: examples.size], ~np.isnan(before[name])
                of_examples[seen] = (of_examples[seen] + before[name][seen]) / 2
        reviewed[split] = History(np.ones(len(history.visits), np.int32), sums)
    return state.replace(review=reviewed)


def margins(experiment, outputs, labels) -> np.ndarray:
    """Returns the margins of outputs [n, K] by the run's task."""
    return np.asarray(_said(experiment, outputs, labels)["margin"])[: len(labels)]


def _said(experiment, outputs, labels, *names):
    """`beliefs` of outputs [n, K], padded, by one program for sets of nearly one size."""
    make = functools.partial(jax.jit, functools.partial(beliefs, experiment.task, names=names))
    program = experiment.programs.once(make, "beliefs", *names)
    more = shared_size(len(labels)) - len(labels)
    return program(*(padded(array, more) for array in (outputs, labels)))


def to_settle(experiment, state, predict):
    """Decides whether what is known of the labels is enough to settle on them: `state.settles`.

    It is not if the model contradicts too many calibration examples (without them: clean ones),
    whose labels are right (`calibrated.contradicts`), or still learns fast: then the mean margins
    are those of a model that knew less. In both cases the right labels that are hard to learn would
    be lost.
    """
    more, splits, doubted = more_believed(experiment, state, predict), experiment.splits, False
    if experiment.config.task == "classification" and splits.calibration is None:
        outputs = predict(state.params["model"], state.model_state, splits.clean.inputs)
        doubted = contradicts(margins(experiment, outputs, splits.clean.label))

    def is_enough():
        contradicted = doubted or judge_labels(experiment, state).summary["contradicted"]
        return bool(more <= LEARNS_FAST) and not contradicted

    return state.replace(settles=jnp.asarray(hosts.from_first(is_enough)))


def more_believed(experiment, state, predict) -> float:
    """Returns the share of the training labels (or tags) with a positive margin, now minus before.

    Before: on the mean over the visits. An example without a visit was not believed. At most SAMPLE
    examples are asked, in equal steps of the row. 0 for regression, whose margins are not positive.
    """
    train = experiment.splits.train
    is_tags = experiment.config.task == "multi_label"
    known = train.label >= 0 if is_tags else np.ones(train.size, bool)
    rows = np.flatnonzero(known.reshape(train.size, -1).any(axis=1))
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, SAMPLE).astype(int))]
    asked = train.take(rows)
    outputs = predict(state.params["model"], state.model_state, asked.inputs)
    now = margins(experiment, outputs, asked.label) > 0
    before = history_means(state.history, train.size)["margin"][rows] > 0
    return np.mean(now, where=known[rows]) - np.mean(before, where=known[rows])


# What `Phase.reviews` names -> (experiment, state, predict) -> state.
REVIEWS = {
    "alone": functools.partial(review, alone=True),
    "with_others": functools.partial(review, alone=False),
    "to_settle": to_settle,
}


# --- What phases train on -------------------------------------------------------------------------


def kept(experiment, state) -> Examples:
    """Returns the training examples that `Judgement.keep` names, and the clean ones.

    Of several tags, those that are not kept become missing.
    """
    keep, train = judge_labels(experiment, state).keep, experiment.splits.train
    if not keep.any():  # nothing is known yet
        return with_clean(experiment, train)
    if keep.ndim > 1:
        train = train._replace(label=np.where(keep, train.label, -1).astype(train.label.dtype))
        keep = (train.label >= 0).any(axis=1)
    return with_clean(experiment, train.take(np.flatnonzero(keep)))


def relabelled(experiment, state) -> Examples:
    """Returns all training examples, with other labels than those not kept, and the clean ones.

    Those not kept are left out if the model is no better judge: if it contradicts right labels, or
    if its predictions, those of a regression, are not remembered (config.remember_megabytes).
    """
    judgement, train = judge_labels(experiment, state), experiment.splits.train
    is_unknown = experiment.config.task == "regression" and "prediction" not in state.history.sums
    if judgement.summary["contradicted"] or is_unknown:
        return kept(experiment, state)
    keep = judgement.keep.reshape(-1, *judgement.keep.shape[1:] or [1] * (train.label.ndim - 1))
    label = np.where(keep, train.label, judgement.suggested_label).astype(train.label.dtype)
    train = train._replace(label=label)
    if experiment.config.task == "classification":  # -1: no label is suggested
        train = train.take(np.flatnonzero(train.label >= 0))
    return with_clean(experiment, train)


def with_clean(experiment, train: Examples) -> Examples:
    """Returns `train` with the clean examples, unless these are in the training set anyway."""
    return concatenate(train, experiment.splits.clean) if joins(experiment) else train


def joins(experiment) -> bool:
    """Returns whether there is a clean set that is not in the training set anyway."""
    clean = experiment.splits.clean
    return clean is not None and not np.isin(clean.index, experiment.splits.train.index).any()


def most_examples(experiment) -> int:
    """Returns the `shared_size` of the largest set of a phase that has training examples."""
    train, sets = experiment.splits.train, {phase.examples for phase in experiment.phases()}
    joined = joins(experiment) and sets - {"train", "clean"}
    more = experiment.splits.clean.size if joined else 0
    return shared_size(shared_size(train.size) + more)


# name -> (experiment, state) -> Examples.
SELECTIONS = {
    "train": lambda experiment, state: experiment.splits.train,
    "clean": lambda experiment, state: experiment.splits.clean,
    "all": lambda experiment, state: with_clean(experiment, experiment.splits.train),
    "believed": kept,
    "drop": kept,
    "relabel": relabelled,
}
