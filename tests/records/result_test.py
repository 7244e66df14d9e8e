"""result.json: the best step is chosen by held-out data, never by the test set."""

import json

import jax
import numpy as np
import pytest

from reweight_jax.records import result
from reweight_jax.tasks import TASKS

TASK = TASKS["classification"](np.arange(3), 3)
REGRESSION = TASKS["regression"](np.arange(3.0), 1)


def evaluation(step, **accuracies):
    scores = {
        split: {"accuracy": value, "error": 1 - value, "loss": 0.0}
        for split, value in accuracies.items()
    }
    return {"step": step, "kind": "eval", "weights": {}} | scores


def test_best_is_chosen_on_hyper_val_and_never_on_test(digits_config):
    train = {"kind": "train", "step": 4, "steps_without_helpful_example": 3}
    train |= {"seconds": 1.0, "steps_per_second": 2.0}
    evals = [
        evaluation(step, hyper_val=hyper_val, test=test, clean=1.0)
        for step, hyper_val, test in (
            *((1, 0.8, 0.5), (2, 0.9, 0.6), (3, 0.9, 0.55), (4, 0.7, 0.99)),
            (6, 0.99, 0.98),  # of fine-tuning
        )
    ]
    matrices = {"kind": "confusion", "test": [[5]], "hyper_val": [[6]]}
    evals += [matrices | {"step": step} for step in (3, 4, 6)]
    stops = {"last": 4, "finetuned_last": 6}
    tuned = train | {"step": 6, "seconds": 1.52}
    got = result.build_result(
        digits_config(), [train, tuned, *evals], TASK, stops, jax.devices()[:1]
    )
    assert got["best"]["step"] == 3 and got["best"]["test_accuracy"] == 0.55
    assert got["best_chosen_by"] == "hyper_val"
    assert got["last"]["step"] == 4
    assert got["finetuned_last"]["test_accuracy"] == 0.98
    assert got["steps_without_helpful_example"] == 3
    assert "0.02" not in result.table(got) and "2.00%" in result.table(got)


@pytest.mark.parametrize(
    "splits, chosen_by, best",
    [
        (("test", "clean", "calibration"), "calibration", 1),
        (("test", "clean"), "clean", 2),
        (("test",), None, 3),  # nothing to choose by: the last
    ],
)
def test_what_chooses_without_hyper_val(splits, chosen_by, best):
    scores = {"calibration": (0.9, 0.8, 0.7), "clean": (0.8, 0.9, 0.7), "test": (0.7, 0.8, 0.9)}
    evals = [
        evaluation(step, **{split: scores[split][step - 1] for split in splits})
        for step in (1, 2, 3)
    ]
    assert result.selection_split(evals[0]) == chosen_by
    assert result.best_evaluation(evals, TASK, 3)["step"] == best
    assert result.best_evaluation([], TASK, 3) is None


def test_a_lower_rmse_is_better():
    evals = [
        {"step": step, "hyper_val": {"rmse": rmse}} for step, rmse in ((1, 2.0), (2, 1.0), (3, 3.0))
    ]
    assert result.best_evaluation(evals, REGRESSION, 3)["step"] == 2
    assert result.best_evaluation(evals, REGRESSION, 1)["step"] == 1
    evals[0]["hyper_val"]["rmse"] = np.nan  # the worst of all
    assert result.best_evaluation(evals, REGRESSION, 3)["step"] == 2
    assert result.best_evaluation(evals, REGRESSION, 1)["step"] == 1


def test_json_has_one_field_a_line():
    text = 'scan [1,  2].png {a,  b} "[3,\t4]" \\'
    content = {"matrix": [[1, 2], [3, 4]], "health": [text], "list": [{"id": 3}], 'a "b"': None}
    shown = result.to_json(content)
    assert json.loads(shown) == content
    assert '  "matrix": [[1, 2], [3, 4]],' in shown.splitlines() and shown.endswith("null\n}\n")
