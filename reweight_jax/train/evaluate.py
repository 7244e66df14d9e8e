"""What is measured of a model and of its weights, on the host in numpy."""

import jax
import numpy as np

from reweight_jax.data.examples import Splits
from reweight_jax.models import scale_inputs
from reweight_jax.tasks import Task
from reweight_jax.train import devices as on_devices
from reweight_jax.train.programs import Programs
from reweight_jax.train.resident import padded

EVAL_BATCH_SIZE = 500
EVALUATED = ("test", "hyper_val", "calibration", "clean")  # of Splits
MAX_CONFUSED = 200  # classes of a confusion matrix: of 1,000 it would be 12 MB of JSON each time


def confuses(splits: Splits, task: Task) -> list[str]:
    """Returns the names of the splits that have a confusion matrix."""
    if task.name != "classification" or task.num_outputs > MAX_CONFUSED:
        return []
    return [name for name in ("test", "hyper_val") if getattr(splits, name) is not None]


def compile_predict(model, devices, programs: Programs, name: str = "outputs"):
    """Returns predict(params, model_state, inputs [N, ...], batch_size=None) -> outputs [N, K].

    The model is in evaluation mode, and takes inputs as they are in the data. The last batch is
    padded. On several devices each takes its share of every batch; every process has all outputs,
    in numpy. `batch_size` None: up to EVAL_BATCH_SIZE, of few sizes because each is compiled.
    The program is kept in `programs` by its `name`.
    """

    def step(params, model_state, inputs):
        return model.apply(params, model_state, scale_inputs(inputs), train=False, key=None)[0]

    def make():
        if len(devices) == 1:
            return jax.jit(step)
        options = {"in_axes": (None, None, 0), "out_axes": None, "devices": devices}
        return jax.pmap(
            lambda *arguments: jax.lax.all_gather(step(*arguments), on_devices.AXIS, tiled=True),
            axis_name=on_devices.AXIS,
            **options,
        )

    compiled = programs.once(make, name)

    def share_of(rows, batch_size):
        rows = padded(rows, batch_size - len(rows))
        if len(devices) == 1:
            return rows
        share = rows[on_devices.own_part(batch_size, devices)]
        return share.reshape(len(on_devices.own(devices)), -1, *rows.shape[1:])

    def predict(params, model_state, inputs, batch_size=None):
        num_examples, outputs = len(jax.tree.leaves(inputs)[0]), []
        if batch_size is None:
            batch_size = min(EVAL_BATCH_SIZE, 1 << (num_examples - 1).bit_length())
        batch_size = -(-batch_size // len(devices)) * len(devices)
        for start in range(0, num_examples, batch_size):
            rows = np.arange(start, min(start + batch_size, num_examples))
            part = jax.tree.map(lambda array: share_of(array[rows], batch_size), inputs)  # noqa: B023
            outputs.append(np.asarray(compiled(params, model_state, part)))
        return np.concatenate(outputs)[:num_examples]

    return predict


def evaluate_splits(predict, splits: Splits, task: Task, state) -> tuple[dict, dict]:
    """Evaluates a `TrainState` on every split except the training set.

    Returns:
      {split: scores of the task}, with true_accuracy, on the labels before the noise, of a noisy
      classification hyper_val; and the confusion matrices {split: int [K, K]} of the splits that
      `confuses` names: counts by label (rows) and prediction (columns).
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
        if name in confuses(splits, task):
            counts = np.bincount(
                examples.label * task.num_outputs + predicted, minlength=task.num_outputs**2
            )
            confusion[name] = counts.reshape(task.num_outputs, -1).tolist()
    return scores, confusion


def weight_statistics(means: dict[str, np.ndarray], wrong: np.ndarray | None) -> dict[str, float]:
    """Returns how well what is remembered of the examples tells wrong labels from right ones.

    `means`: as `history_means` returns it, of N examples; `wrong`: bool [N], or None if unknown.

    Returns:
      mean_auc: area under the ROC curve of the mean weights: the probability that a right label has
        a higher one than a wrong label, ties counting half; 0.5 for equal weights.
      alignment_auc, margin_auc: likewise, of the mean alignment (if there is one) and margin.
      wrong_mass: fraction of the weight that is on wrong labels.
      zero_right, zero_wrong: fraction of the right and of the wrong labels whose mean weight is 0.
      Empty if the examples seen are not known to have both right and wrong labels.
    """
    if wrong is None:
        return {}
    seen = means["visits"] > 0
    wrong = wrong[seen]
    if wrong.all() or not wrong.any():
        return {}
    from sklearn.metrics import roc_auc_score  # here, because it takes seconds

    quantities = {"mean_auc": "weight", "alignment_auc": "alignment", "margin_auc": "margin"}
    weights = means["weight"][seen]
    return {
        name: float(roc_auc_score(~wrong, means[quantity][seen]))
        for name, quantity in quantities.items()
        if quantity in means
    } | {
        "wrong_mass": float(weights[wrong].sum() / max(weights.sum(), np.finfo(float).tiny)),
        "zero_right": float(np.mean(weights[~wrong] == 0)),
        "zero_wrong": float(np.mean(weights[wrong] == 0)),
    }


def suspect_statistics(judgement, examples, wrong: np.ndarray) -> dict[str, int]:
    """Returns how many labels are wrong, how many suspects, and how many suggestions are right.

    `judgement`: a `reweight_jax.labels.quality.Judgement` of `examples`; `wrong`: `wrong_labels`.
    """
    found = {
        "wrong_labels": int(wrong.sum()),
        "wrong_suspects": int((wrong & judgement.is_suspect).sum()),
    }
    if examples.label.dtype.kind == "i":  # a predicted number is never quite right
        right = judgement.suggested_label == examples.true_label
        found["right_suggestions"] = int((wrong & right).sum())
    return found


def wrong_labels(examples) -> np.ndarray | None:
    """Returns which labels are wrong, bool [N]; None if that is unknown or makes no sense."""
    if examples.true_label is None or examples.label.ndim > 1:
        return None
    return examples.label != examples.true_label
