"""The trainings of scripts/benchmarks/labels.py: ours, the others', and what is measured of them.

A part of a cell is some trainings that belong together. It returns {row of the table: numbers}.
Every training has the same network, steps, batches and optimiser. What is not ours trains on all
trusted examples; ours trains on the clean ones and keeps the others for calibration.
"""

import json
import statistics
import tempfile

import numpy as np
from labels_data import Data, Setting

from reweight_jax import api
from reweight_jax.configs import own_data
from reweight_jax.labels.quality import judge
from reweight_jax.records.metrics import read_metrics
from reweight_jax.sealed import read_npz

PHASES = ("warm_up", "settle_at", "judge_for")
RATES = (0.01, 0.05, 0.1)
DISCOVERY_RATE = 0.1
NUM_FOLDS = 5


def fields_of(setting: Setting) -> dict:
    """Returns what a finished part must have been made with, for JSON: other parts are run again.

    The setting, and the phases of a run of ours, which are defaults of `fit`.
    """
    config = own_data.get_config()
    fields = setting._asdict() | {name: config[name] for name in PHASES}
    return json.loads(json.dumps(fields))


def paper(data: Data, setting: Setting, seed: int) -> dict:
    """The paper's method, judged by its mean margins; then a restart without the suspects."""
    fields = {"warm_up": 0.0, "settle_at": 1.0, "judge_for": 0.0}
    return _then_retrained("reweight", data, setting, seed, **fields)


def settled(data: Data, setting: Setting, seed: int) -> dict:
    """Warm-up, reweighting and settling as `fit` has them; then a restart likewise."""
    return _then_retrained("settled", data, setting, seed)


def judged(data: Data, setting: Setting, seed: int) -> dict:
    """As `settled`, but it reweights to the end; its list is a judge's, its accuracy is without."""
    run = _fit(data, setting, seed, settle_at=1.0, **_ours(data))
    seconds = {"seconds": sum(training_seconds(run).values())}
    return {"judged": _judged(run, data) | _accuracies(run, "last") | seconds}


def settled_once(data: Data, setting: Setting, seed: int) -> dict[str, float]:
    """Scores of a settled run without a restart; those of the flags only if it is calibrated."""
    run = _fit(data, setting, seed, **_ours(data))
    if len(data.calibration[1]):
        return _judged(run, data) | _accuracies(run, "last")
    return list_scores(_of_train(run, data)["margin"], data) | _accuracies(run, "last")


def relabelled(data: Data, setting: Setting, seed: int) -> dict:
    """As `settled`; then a restart on all examples, with other labels than those not believed."""
    run = _fit(data, setting, seed, retrain="relabel", **_ours(data))
    seconds = {"seconds": sum(training_seconds(run).values())}
    return {"settled, relabelled": _judged(run, data) | _accuracies(run, "retrained") | seconds}


def _then_retrained(name, data, setting, seed, **fields):
    """Rows of a run of ours, and of the same run when it has gone on: retrained, and fine-tuned.

    Two calls, because a restart judges all labels again: each row has its own list.
    """
    fields |= _ours(data)
    with tempfile.TemporaryDirectory() as folder:
        run = _fit(data, setting, seed, workdir=folder, **fields)
        seconds, examples = sum(training_seconds(run).values()), _of_train(run, data)
        rows = {name: _judged(run, data) | _accuracies(run, "last") | {"seconds": seconds}}
        if "unsettled" not in run.result:  # the alignment is of the same visits
            rows[f"{name}, alignment"] = list_scores(examples["alignment"], data)
        later = {"retrain": "drop", "finetune_from": "retrained"} | _tuning(setting)
        run = _fit(data, setting, seed, workdir=folder, **fields, **later)
        of_phases = training_seconds(run)
        seconds = sum(of_phases.values())
        tuned = _accuracies(run, "finetuned_retrained") | {"seconds": seconds}
        seconds -= of_phases["finetuned_retrained"]
        retrained = _judged(run, data) | _accuracies(run, "retrained") | {"seconds": seconds}
        rows |= {f"{name}, retrained": retrained, f"{name}, retrained, fine-tuned": tuned}
    return rows


def plain(data: Data, setting: Setting, seed: int) -> dict:
    """Plain training: its margins (AUM) and its confidence; then fine-tuning on trusted ones."""
    more = {"method": "baseline", "finetune_from": "last"} | _tuning(setting)
    run = _fit(data, setting, seed, clean=data.trusted, **more)
    seconds, examples = training_seconds(run), _of_train(run, data)
    margin = list_scores(examples["margin"], data)
    margin |= right_suggestions(examples["log_probability"], data) | _accuracies(run, "last")
    rows = {"plain, margin (AUM)": margin | {"seconds": seconds["last"]}}
    rows["plain, confidence"] = _confidence(run.predict(data.inputs), data)
    rows["plain, fine-tuned"] = _confidence(run.predict(data.inputs, "finetuned_last"), data) | {
        **_accuracies(run, "finetuned_last"),
        "seconds": seconds["last"] + seconds["finetuned_last"],
    }
    return rows


def plain_calibrated(data: Data, setting: Setting, seed: int) -> dict:
    """Plain training that keeps a calibration set as ours does: the calibration without weights."""
    run = _fit(data, setting, seed, method="baseline", **_ours(data))
    row = _judged(run, data) | _accuracies(run, "last")
    return {"plain, calibrated": row | {"seconds": training_seconds(run)["last"]}}


def trusted(data: Data, setting: Setting, seed: int) -> dict:
    """A network that only the trusted examples train."""
    run = _fit(data, setting, seed, method="clean_only", clean=data.trusted)
    row = _confidence(run.predict(data.inputs), data) | _accuracies(run, "last")
    return {"trusted only": row | {"seconds": training_seconds(run)["last"]}}


def cleanlab(data: Data, setting: Setting, seed: int) -> dict:
    """cleanlab on out-of-sample probabilities; then plain training without what it finds.

    Each fold of the training labels is predicted by a network that the other folds and the trusted
    examples trained.
    """
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    options = {"method": "baseline", "clean": data.trusted}
    order = np.random.default_rng((seed, 2)).permutation(len(data.label))
    probability, seconds = None, 0.0
    for fold in np.array_split(order, NUM_FOLDS):
        run = _fit(data, setting, seed, rows=np.setdiff1d(order, fold), **options)
        of_fold = run.predict(data.inputs[fold])
        if probability is None:
            probability = np.zeros((len(order), of_fold.shape[1]))
        probability[fold] = of_fold
        seconds += training_seconds(run)["last"]
    probability /= probability.sum(axis=1, keepdims=True)
    rows = {}
    for method in ("self_confidence", "normalized_margin"):
        quality = get_label_quality_scores(data.label, probability, method=method)
        rows[f"cleanlab, {method.replace('_', ' ')}"] = list_scores(quality, data)
    found = find_label_issues(data.label, probability, n_jobs=1)
    rows["cleanlab, self confidence"] |= right_suggestions(probability, data)
    rows["cleanlab, self confidence"]["seconds"] = seconds
    run = _fit(data, setting, seed, rows=np.flatnonzero(~found), **options)
    row = flag_scores(found, data, "found") | _accuracies(run, "last")
    seconds += training_seconds(run)["last"]
    return rows | {"cleanlab, find and drop": row | {"seconds": seconds}}


PARTS = {
    "paper": paper,
    "settled": settled,
    "judged": judged,
    "relabelled": relabelled,
    "plain": plain,
    "trusted": trusted,
    "cleanlab": cleanlab,
    "plain_calibrated": plain_calibrated,
}


# --- What is measured -----------------------------------------------------------------------------


def list_scores(quality: np.ndarray, data: Data) -> dict[str, float]:
    """Returns how well a quality [N], low for suspects, ranks wrong labels before right ones.

    auroc, average_precision, precision_at_n (n = number of wrong labels) and precision_at_100.
    Empty if no label is wrong.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    wrong = data.label != data.true_label
    if not wrong.any():
        return {}
    quality = np.nan_to_num(np.asarray(quality, np.float64), nan=1e300)  # never judged: last
    order = np.argsort(quality, kind="stable")
    return {
        "auroc": float(roc_auc_score(wrong, -quality)),
        "average_precision": float(average_precision_score(wrong, -quality)),
        "precision_at_n": float(wrong[order[: wrong.sum()]].mean()),
        "precision_at_100": float(wrong[order[:100]].mean()),
    }


def flag_scores(flagged: np.ndarray, data: Data, name: str) -> dict[str, float]:
    """Returns the shares of right and of wrong labels that are flagged, and of right ones of these.

    false_alarms_NAME, recall_NAME (if a label is wrong), discoveries_NAME: 0 if none is flagged.
    """
    wrong = data.label != data.true_label
    scores = {f"false_alarms_{name}": float(flagged[~wrong].mean())}
    if wrong.any():
        scores[f"recall_{name}"] = float(flagged[wrong].mean())
    false = float((flagged & ~wrong).sum() / max(flagged.sum(), 1))
    return scores | {f"discoveries_{name}": false}


def right_suggestions(beliefs: np.ndarray, data: Data) -> dict[str, float]:
    """Returns the share of the wrong labels for which the class believed most is the right one."""
    wrong = data.label != data.true_label
    if not wrong.any():
        return {}
    right = beliefs.argmax(axis=1)[wrong] == data.true_label[wrong]
    return {"right_suggestions": float(right.mean())}


def _confidence(probability, data):
    """Scores of a list by the probability of the label."""
    of_label = probability[np.arange(len(data.label)), data.label]
    return list_scores(of_label, data) | right_suggestions(probability, data)


def _judged(run, data):
    """Scores of the margins, and of the calibrated lists at all rates."""
    examples = _of_train(run, data)
    calibration = read_npz(run.workdir / "calibration.npz", run.result)
    num_outputs = examples["log_probability"].shape[1]
    options = {"task": "classification", "num_outputs": num_outputs}
    scores = list_scores(examples["margin"], data)
    for rate in RATES:
        judged = judge(examples, calibration, **options, false_alarm_rate=rate)
        scores |= flag_scores(judged.is_suspect, data, f"{100 * rate:g}")
    estimate = judged.summary["wrong"]
    scores |= {"estimate": estimate["share"], "true_share": float(_share_wrong(data))}
    scores |= right_suggestions(examples["log_probability"], data)
    judged = judge(examples, calibration, **options, false_discovery_rate=DISCOVERY_RATE)
    return scores | flag_scores(judged.is_suspect, data, "bh")


def _share_wrong(data):
    return np.mean(data.label != data.true_label)


# --- Trainings ------------------------------------------------------------------------------------


def _fit(data, setting, seed, *, rows=None, **fields):
    """Trains on the given rows of the training examples, with the settings that all have."""
    rows = slice(None) if rows is None else rows
    steps = setting.num_steps
    return api.fit(
        setting.model,
        (data.inputs[rows], data.label[rows]),
        test=data.test,
        seed=seed,
        progress=False,
        plots=False,
        num_steps=steps,
        batch_size=setting.batch_size,
        clean_batch_size=setting.batch_size,
        optimizer="sgd",
        learning_rate=setting.learning_rate,
        momentum=0.9,
        lr_schedule="cosine",
        log_every_steps=steps // 10,
        eval_every_steps=steps,
        checkpoint_every_steps=steps,
        data={"standardize": False, "num_classes": int(data.test[1].max()) + 1},
        model_fields={"hidden": setting.hidden},
        **fields,
    )


def _tuning(setting):
    return {"finetune_steps": max(setting.num_steps // 5, 10)}


def _ours(data):
    calibration = data.calibration if len(data.calibration[1]) else None
    return {"clean": data.clean, "calibration": calibration}


def _of_train(run, data):
    """What is known of the training examples, without the trusted ones that are trained on too."""
    rows = run.examples["index"] < len(data.label)
    return {name: array[rows] for name, array in run.examples.items()}


def _accuracies(run, phase):
    result = run.result[phase]
    names = ("test_accuracy", "calibration_accuracy")
    return {name: result[name] for name in names if name in result}


def training_seconds(run) -> dict[str, float]:
    """Returns the seconds of training of each phase: its steps times their median time.

    Without compiling, evaluating and writing, which do not grow with the number of steps.
    """
    records = [r for r in read_metrics(run.workdir) if r["kind"] == "train"]
    stops = sorted((run.result[name]["step"], name) for name in run.result["seconds_at"])
    seconds, start = {}, 0
    for stop, name in stops:
        speed = statistics.median(
            r["steps_per_second"] for r in records if start < r["step"] <= stop
        )
        seconds[name], start = (stop - start) / speed, stop
    return seconds
