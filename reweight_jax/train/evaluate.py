"""What is measured of a model and of its weights, on the host in numpy.

scikit-learn is imported only where it is used: that takes a second, and a run starts without it.
"""

import numpy as np

from reweight_jax.data.examples import Splits
from reweight_jax.tasks import Task

EVALUATED = ("test", "hyper_val", "calibration", "clean")  # of Splits


def evaluate_splits(predict, splits: Splits, task: Task, state) -> tuple[dict, dict]:
    """Evaluates the model on every split that there is, but for the training set.

    Args:
      predict: as `devices.compile_predict` returns it.
      splits: the data.
      task: of the run.
      state: `TrainState`.

    Returns:
      {split: scores of the task}, for a noisy classification hyper_val also true_accuracy, on the
      labels before the noise; and, for classification, the confusion matrices {split: int [K, K]}
      of test and hyper_val: counts by label (rows) and prediction (columns).
    """
    scores, confusion = {}, {}
    is_classification = task.name == "classification"
    for name in EVALUATED:
        examples = getattr(splits, name)
        if examples is None:
            continue
        outputs = predict(state.params["model"], state.model_state, examples.inputs)
        scores[name] = task.scores(outputs, examples.label)
        predicted = outputs.argmax(-1)
        if is_classification and name == "hyper_val" and examples.true_label is not None:
            scores[name]["true_accuracy"] = float(np.mean(predicted == examples.true_label))
        if is_classification and name in ("test", "hyper_val"):
            from sklearn.metrics import confusion_matrix

            classes = np.arange(task.num_outputs)
            confusion[name] = confusion_matrix(examples.label, predicted, labels=classes).tolist()
    return scores, confusion


def weight_statistics(means: dict[str, np.ndarray], wrong: np.ndarray) -> dict[str, float]:
    """Returns how well what is remembered of the examples tells wrong labels from right ones.

    Args:
      means: as `history_means` returns it, of N examples.
      wrong: bool [N], whether each one's label is wrong.

    Returns:
      mean_auc: area under the ROC curve of the mean weights: the probability that an example with a
        right label has a higher one than an example with a wrong label, ties counting half. 0.5 is
        what equal weights have.
      alignment_auc, margin_auc: likewise, of the mean alignment (if there is one) and margin.
      wrong_mass: fraction of the weight that is on wrong labels.
      zero_right, zero_wrong: fraction of the right and of the wrong labels whose mean weight is 0.
      Empty if the examples seen are not of both kinds.
    """
    seen = means["visits"] > 0
    wrong = wrong[seen]
    if wrong.all() or not wrong.any():
        return {}
    from sklearn.metrics import roc_auc_score

    quantities = {"mean_auc": "weight", "alignment_auc": "alignment", "margin_auc": "margin"}
    weights = means["weight"][seen]
    areas = {
        name: float(roc_auc_score(~wrong, means[quantity][seen]))
        for name, quantity in quantities.items()
        if quantity in means and means[quantity].ndim == 1
    }
    return areas | {
        "wrong_mass": float(weights[wrong].sum() / max(weights.sum(), np.finfo(float).tiny)),
        "zero_right": float(np.mean(weights[~wrong] == 0)),
        "zero_wrong": float(np.mean(weights[wrong] == 0)),
    }


def wrong_labels(examples) -> np.ndarray | None:
    """Returns which labels are wrong, bool [N]; None if that is unknown or makes no sense."""
    if examples.true_label is None or examples.label.ndim > 1:
        return None
    return examples.label != examples.true_label
