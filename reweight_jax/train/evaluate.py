"""What is measured of a model and of its weights, on the host in numpy.

scikit-learn is imported where it is used: that takes a second, and a run starts without it.
"""

import numpy as np
import optax

from reweight_jax.data.splits import Splits
from reweight_jax.history import WeightHistory

EVALUATED = ("test", "hyper_val", "clean")  # of Splits


def evaluate_splits(predict, splits: Splits, state, num_classes: int) -> tuple[dict, dict]:
    """Evaluates on the test, hyper_val and clean split.

    Args:
      predict: as `parallel.compile_predict` returns it.
      splits: the data.
      state: `TrainState`.
      num_classes: K.

    Returns:
      {split: {accuracy, error, loss}}, loss the mean cross-entropy; for hyper_val true_accuracy as
      well, that on the labels before the noise; and the confusion matrices
      {split: int [K, K]} of test and hyper_val, counts by label (rows) and prediction (columns).
    """
    from sklearn.metrics import confusion_matrix

    scores, confusion = {}, {}
    for name in EVALUATED:
        examples = getattr(splits, name)
        logits = predict(state.params["model"], state.model_state, examples.image)
        predicted = logits.argmax(-1)
        wrong = int(np.sum(predicted != examples.label))
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, examples.label)
        scores[name] = {
            "accuracy": 1 - wrong / len(examples.label),
            "error": wrong / len(examples.label),
            "loss": float(np.mean(losses)),
        }
        if name == "hyper_val":
            scores[name]["true_accuracy"] = float(np.mean(predicted == examples.true_label))
        if name != "clean":
            classes = np.arange(num_classes)
            matrix = confusion_matrix(examples.label, predicted, labels=classes)
            confusion[name] = matrix.tolist()
    return scores, confusion


def weight_statistics(history: WeightHistory, wrong: np.ndarray) -> dict[str, float]:
    """How well weights tell wrong labels from right ones.

    Args:
      history: of N examples.
      wrong: bool [N], whether each one's label is wrong.

    Returns:
      auc: area under the ROC curve of the last weights: the probability that an example with a
        right label weighs more than one with a wrong label, ties counting half. 0.5 is what equal
        weights have.
      mean_auc: likewise, of the mean weights over all visits.
      alignment_auc: likewise, of the mean alignment; left out where the method has none.
      wrong_mass: fraction of the whole last weight that lies on wrong labels.
      zero_right, zero_wrong: fraction of the right and of the wrong labels whose last weight is 0.
      Empty where the examples seen are not of both kinds.
    """
    seen = np.asarray(history.visits) > 0
    wrong = wrong[seen]
    weights, mean_weights, alignment = (
        np.asarray(values)[seen]
        for values in (history.last_weight, history.mean_weight, history.mean_alignment)
    )
    if wrong.all() or not wrong.any():
        return {}
    from sklearn.metrics import roc_auc_score

    scores = {"auc": weights, "mean_auc": mean_weights}
    if not np.isnan(alignment).all():
        scores["alignment_auc"] = alignment
    areas = {name: float(roc_auc_score(~wrong, score)) for name, score in scores.items()}
    return areas | {
        "wrong_mass": float(weights[wrong].sum() / max(weights.sum(), np.finfo(float).tiny)),
        "zero_right": float(np.mean(weights[~wrong] == 0)),
        "zero_wrong": float(np.mean(weights[wrong] == 0)),
    }
