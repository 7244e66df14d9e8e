"""Which labels are suspect, and how sure that is: from the margins that a run remembers.

The score of an example is its margin, averaged over visits or of one review at the end, or of both:
how far the model agrees with the label as it is. Trusted examples that no gradient sees (the
calibration set) say how low the score of a right label can be; see conformal.py. The guarantee
assumes that they are drawn like the right labels of the training set, of their class if they are
compared by class.
Training lifts the scores of the examples that it uses, so that right labels are flagged less often
than the rate asked for.
"""

from typing import NamedTuple

import numpy as np

from reweight_jax.labels import conformal
from reweight_jax.labels.calibrated import ADVICE, Reference, border, contradicts, scores

OUTLIER = 0.9973  # the probability of 3 standard deviations

WITHOUT = {
    "classification": "whose margin is below 0 (another class is more probable)",
    "multi_label": "with a tag whose margin is below 0 (the opposite is more probable)",
    "regression": "that lie further from the prediction than 3 standard deviations, robustly",
}
JUDGED = tuple(WITHOUT)  # tasks


class Judgement(NamedTuple):
    """What is said of N labels.

    Attributes:
      label_quality: float [N] in 0..1, low for suspect labels; NaN if an example was in no batch.
        A sigmoid of the margin; for regression exp(-distance in standardised units).
      suggested_label: like the labels. classification: the class of the highest mean
        log-probability, of a suspect another than its label; if that was not remembered, the given
        label, or -1 if its margin is negative. multi_label: tags of a negative margin are flipped.
        regression: the prediction.
      p_value: float [N], the conformal p-value of 'this label is right'; None without calibration.
      is_suspect: bool [N].
      keep: bool [N] ([N, K] for multi_label), what to train on: margins above 0 (or
        `calibrated.border`); all if `Reference.finds_wrong_labels` is False. regression: those not
        suspect; without calibration those of a positive mean alignment, if it is known.
      order: int [N], positions of the examples, worst first: by p-value, then by score.
      summary: a dict for JSON.
    """

    label_quality: np.ndarray
    suggested_label: np.ndarray
    p_value: np.ndarray | None
    is_suspect: np.ndarray
    keep: np.ndarray
    order: np.ndarray
    summary: dict


def judge(
    examples: dict[str, np.ndarray],
    calibration: dict[str, np.ndarray] | None,
    *,
    task: str,
    num_outputs: int,
    false_alarm_rate: float = 0.05,
    false_discovery_rate: float = 0.0,
    classes: tuple = (),
) -> Judgement:
    """Judges every training label.

    Args:
      examples: label [N, ...], margin float [N] ([N, K] for multi_label; NaN if never visited), and
        if remembered log_probability float [N, K] (classification), prediction (regression) and
        alignment float [N]. If there is is_trusted, bool [N], labels that are known to be right:
        they are no suspects, and count for nothing.
      calibration: label and margin of n trusted examples that no gradient saw; None if there are
        none.
      task: a name in `reweight_jax.tasks.TASKS`.
      num_outputs: K.
      false_alarm_rate: the mean share of right labels that may be flagged, above 0 and below 1.
      false_discovery_rate: if above 0, flags by Benjamini-Hochberg at this rate instead: the mean
        share of right labels among those flagged. With weighted p-values (`by` in the summary) this
        is not proved.
      classes: their names, for the notes; (): 0..K-1.

    Raises:
      ValueError: an unknown task, or a rate out of range.
    """
    from scipy.special import expit

    if task not in JUDGED:
        raise ValueError(f"task: labels of {task!r} are not judged, only of {', '.join(JUDGED)}")
    if not 0 < false_alarm_rate < 1:
        raise ValueError(f"false_alarm_rate: {false_alarm_rate:g} must be between 0 and 1")
    if not 0 <= false_discovery_rate < 1:
        raise ValueError(f"false_discovery_rate: {false_discovery_rate:g} must be 0..1, below 1")
    label, score = np.asarray(examples["label"]), scores(examples)
    size, seen, notes = len(score), ~np.isnan(score), []
    num_calibration = int(np.sum(~np.isnan(scores(calibration)))) if calibration else 0
    summary = {"num_examples": size, "num_calibration": num_calibration, "rule": "margin"}
    summary |= {"rate": None, "rate_90": None, "by": "all", "wrong": None, "num_suspects": 0}
    summary |= {"finds_wrong": None, "notes": notes, "border": 0.0, "contradicted": False}
    if not seen.all():
        reason = "in no batch, or have no known tag" if task == "multi_label" else "in no batch"
        notes.append(f"{np.sum(~seen):,} of {size:,} examples are not judged: {reason}.")
    trusted = examples.get("is_trusted", np.zeros(size, bool))
    seen &= ~trusted
    p_value, suspect = None, np.zeros(size, bool)
    if num_calibration and seen.any():
        discovers = false_discovery_rate > 0
        rule = "false_discovery_rate" if discovers else "false_alarm_rate"
        rate = false_discovery_rate if discovers else false_alarm_rate
        # Benjamini-Hochberg looks at p-values far below its rate.
        smallest = rate / 10 if discovers else rate
        of_calibration = calibration, task, num_outputs, smallest
        reference = Reference(label[seen], score[seen], *of_calibration)
        p_value = np.ones(size)
        p_value[seen] = reference.p_value
        flag = conformal.benjamini_hochberg if discovers else np.less_equal
        suspect[seen] = flag(reference.p_value, rate)
        summary |= {"rule": rule, "rate": rate, "by": reference.by}
        summary |= {"rate_90": None if discovers else reference.rate_bound(rate)}
        summary |= {"wrong": reference.share_wrong(), "finds_wrong": reference.finds_wrong_labels()}
        notes += reference.notes(rate, discovers, bool(suspect.any()), classes)
        if task == "classification" and contradicts(reference.score):
            summary |= {"border": border(score[seen], reference.score), "contradicted": True}
            notes.append(
                f"The model contradicts {np.mean(reference.score <= 0):.0%} of the calibration "
                "examples, whose labels are right: do not relabel by it."
            )
    elif not num_calibration:
        suspect[seen] = plain_threshold(score[seen], task, num_outputs)
        notes.append(
            "No calibration examples: no p-values, no rate of false alarms, and no estimate of how "
            f"many labels are wrong. The suspects are those {WITHOUT[task]}. For more, {ADVICE}."
        )
    # A NaN is sorted last; among equal examples the first one comes first.
    order = np.lexsort((score,) if p_value is None else (score, p_value))
    suggested = _suggested_label(examples, seen, suspect, task)
    keep = np.asarray(examples["margin"]) > summary["border"]
    if task == "regression":  # a distance has no sign
        helpful = examples["alignment"] > 0 if "alignment" in examples else ~suspect
        keep = ~suspect if num_calibration else helpful
    keep[trusted] = True
    if summary["finds_wrong"] is False:
        keep = np.ones_like(keep)
    summary["num_suspects"] = int(suspect.sum())
    if task == "classification":
        summary |= _counts(label, suggested, suspect, num_outputs)
    quality = np.exp(score) if task == "regression" else expit(score)
    return Judgement(quality, suggested, p_value, suspect, keep, order, summary)


def plain_threshold(score, task, num_outputs):
    """Which labels are suspect if nothing says how right labels score, bool [N]."""
    if task != "regression" or not len(score):
        return score < 0
    from scipy.stats import chi2

    # The distance of normal errors in D dimensions has the distribution chi with D degrees.
    typical, limit = chi2.ppf([0.5, OUTLIER], num_outputs)
    return -score > np.median(-score) * np.sqrt(limit / typical)


def _suggested_label(examples, seen, suspect, task):
    label, margin = examples["label"], examples["margin"]
    if task == "multi_label":
        return np.where((label >= 0) & (margin < 0), 1 - label, label)
    if task == "regression":
        prediction = examples.get("prediction")
        if prediction is None:
            return np.array(label)
        seen = seen.reshape(-1, *[1] * (label.ndim - 1))
        return np.where(seen, np.reshape(prediction, label.shape), label)
    log_probability = examples.get("log_probability")
    if log_probability is None:
        return np.where(seen & (margin < 0), -1, label).astype(label.dtype)
    # Of a label that is wrong, the others are more often right than the model's first choice.
    is_label = np.arange(log_probability.shape[1])[None] == label[:, None]
    allowed = np.where(is_label & suspect[:, None], -np.inf, log_probability)
    return np.where(seen, np.argmax(allowed, axis=1), label).astype(label.dtype)


def _counts(label, suggested, suspect, num_outputs):
    """Counts by class, and of the suspects by (given, suggested), where these differ."""
    examples = np.bincount(label, minlength=num_outputs)
    suspects = np.bincount(label[suspect], minlength=num_outputs)
    changed = suspect & (suggested >= 0) & (suggested != label)
    pair = label[changed].astype(np.int64) * num_outputs + suggested[changed]
    pairs, counts = np.unique(pair, return_counts=True)
    most_first = np.argsort(-counts, kind="stable")
    return {
        "per_class": [
            {"label": k, "examples": int(examples[k]), "suspects": int(suspects[k])}
            for k in range(num_outputs)
        ],
        "pairs": [
            {"given": int(p // num_outputs), "suggested": int(p % num_outputs), "count": int(c)}
            for p, c in zip(pairs[most_first], counts[most_first], strict=True)
        ],
    }
