"""Which labels are suspect, and how sure that is: from the margins that a run remembers.

The score of an example is its margin, averaged over visits: how far the model agrees with the label
as it is. Trusted examples that no gradient sees (the calibration set) say how low the score of a
right label can be; see conformal.py. The guarantee assumes that they are drawn like the right
labels of the training set, of their class if they are compared by class. Training lifts the scores
of the examples that it uses, so that right labels are flagged less often than the rate asked for.
"""

from typing import NamedTuple

import numpy as np

from reweight_jax.labels import conformal

SHIFT = 0.2  # total variation distance of class shares from which calibration is weighted
FEW = 20  # calibration examples, of all classes or of one
OUTLIER = 0.9973  # the probability of 3 standard deviations

ADVICE = (
    "keep a part of the trusted set out of the gradient with config.data.num_calibration, or give "
    "more trusted examples as calibration="
)
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
      suggested_label: like the labels. classification: the class with the highest mean
        log-probability; if that was not remembered, the given label if its margin is not negative,
        else -1. multi_label: tags whose margin is negative are flipped. regression: the prediction.
      p_value: float [N], the conformal p-value of 'this label is right'; None without calibration.
      is_suspect: bool [N].
      order: int [N], positions of the examples, worst first: by p-value, then by score.
      summary: a dict for JSON.
    """

    label_quality: np.ndarray
    suggested_label: np.ndarray
    p_value: np.ndarray | None
    is_suspect: np.ndarray
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
) -> Judgement:
    """Judges every training label.

    Args:
      examples: label [N, ...], margin float [N] ([N, K] for multi_label; NaN if never visited), and
        if remembered log_probability float [N, K] (classification), prediction (regression).
      calibration: label and margin of n trusted examples that no gradient saw; None if there are
        none.
      task: a name in `reweight_jax.tasks.TASKS`.
      num_outputs: K.
      false_alarm_rate: the mean share of right labels that may be flagged, above 0 and below 1.
      false_discovery_rate: if above 0, flags by Benjamini-Hochberg at this rate instead: the mean
        share of right labels among those flagged. With weighted p-values (`by` in the summary) this
        is not proved.

    Raises:
      ValueError: an unknown task, or a rate out of range.
    """
    from scipy.special import expit

    if task not in JUDGED:
        raise ValueError(f"task: unknown name {task!r}; valid: {', '.join(JUDGED)}")
    if not 0 < false_alarm_rate < 1:
        raise ValueError(f"false_alarm_rate: {false_alarm_rate:g} must be between 0 and 1")
    if not 0 <= false_discovery_rate < 1:
        raise ValueError(f"false_discovery_rate: {false_discovery_rate:g} must be 0..1, below 1")
    label, score = np.asarray(examples["label"]), scores(examples, task)
    seen = ~np.isnan(score)
    num_calibration = int(np.sum(~np.isnan(scores(calibration, task)))) if calibration else 0
    notes, p_value, suspect, wrong = [], None, np.zeros(len(score), bool), None
    if not seen.all():
        reason = "in no batch, or have no known tag" if task == "multi_label" else "in no batch"
        notes.append(f"{np.sum(~seen):,} of {len(score):,} examples are not judged: {reason}.")
    rule, rate, rate_90, by = "margin", None, None, "all"
    if num_calibration and seen.any():
        discovers = false_discovery_rate > 0
        rule = "false_discovery_rate" if discovers else "false_alarm_rate"
        rate = false_discovery_rate if discovers else false_alarm_rate
        # Benjamini-Hochberg looks at p-values far below its rate.
        smallest = rate / 10 if discovers else rate
        of_calibration = calibration, task, num_outputs, smallest
        reference = _Reference(label[seen], score[seen], *of_calibration)
        p_value = np.ones(len(score))
        p_value[seen] = reference.p_value
        flag = conformal.benjamini_hochberg if discovers else np.less_equal
        suspect[seen] = flag(reference.p_value, rate)
        by, wrong = reference.by, reference.share_wrong()
        rate_90 = None if discovers else reference.rate_bound(rate)
        notes += reference.notes(rate, discovers, bool(suspect.any()))
    else:
        suspect[seen] = plain_threshold(score[seen], task, num_outputs)
        notes.append(
            "No calibration examples: no p-values, no rate of false alarms, and no estimate of how "
            f"many labels are wrong. The suspects are those {WITHOUT[task]}. For more, {ADVICE}."
        )
    # A NaN is sorted last; among equal examples the first one comes first.
    order = np.lexsort((score,) if p_value is None else (score, p_value))
    suggested = _suggested_label(examples, seen, task)
    summary = {"num_examples": len(score), "num_calibration": num_calibration}
    summary |= {"rule": rule, "rate": rate, "rate_90": rate_90, "by": by, "wrong": wrong}
    summary |= {"num_suspects": int(suspect.sum()), "notes": notes}
    if task == "classification":
        summary |= _counts(label, suggested, suspect, num_outputs)
    quality = np.exp(score) if task == "regression" else expit(score)
    return Judgement(quality, suggested, p_value, suspect, order, summary)


def scores(examples: dict[str, np.ndarray], task: str) -> np.ndarray:
    """Returns the mean margin, float64 [N]; for multi_label the smallest one of the known tags.

    NaN if the example was never visited, or has no known tag.
    """
    margin = np.asarray(examples["margin"], np.float64)
    if task != "multi_label":
        return margin
    lowest = np.where(examples["label"] >= 0, margin, np.inf).min(axis=1)
    return np.where(lowest == np.inf, np.nan, lowest)


class _Reference:
    """How training scores are compared with calibration scores.

    Attributes:
      size: n.
      by: "all", "class" or "weighted".
      p_value: float [N], of the training labels.
    """

    def __init__(self, label, score, calibration, task, num_outputs, rate):
        calibration_score = scores(calibration, task)
        known = ~np.isnan(calibration_score)
        calibration_score = calibration_score[known]
        self.size, self.by, self.weight = len(calibration_score), "all", None
        # Those of training and of calibration examples: one group, unless compared by class.
        label_pair = label, np.asarray(calibration["label"])[known]
        self.groups = np.zeros(len(score), int), np.zeros(self.size, int)
        self.min_size, self.absent = self.size, ()
        if task == "classification":
            counts = np.bincount(label_pair[1], minlength=num_outputs)
            in_training = np.unique(label)
            self.absent = in_training[counts[in_training] == 0]
            # By class, a rate holds in each one; that gains most if they differ in difficulty.
            # Twice as many examples as it needs: the threshold is else a minimum, which scatters
            # so much that recall drops by 0.08 if classes do not differ (by simulation).
            enough = max(FEW, conformal.min_calibration(rate / 2))
            smallest = int(counts[in_training].min())
            if smallest >= enough:
                self.by, self.groups, self.min_size = "class", label_pair, smallest
            elif (shares := _shifted_shares(label, score, counts)) is not None:
                self.by = "weighted"
                weights = shares * self.size / np.maximum(counts, 1)
                weights = np.where(counts > 0, weights, 1.0)  # nothing is known of an absent class
                weight, self.weight = weights[label_pair[0]], weights[label_pair[1]]
        if self.by == "weighted":
            common = calibration_score, self.weight
            self.p_value = conformal.weighted_p_values(score, weight, *common)
            self._own = conformal.weighted_p_values(calibration_score, self.weight, *common)
        else:
            (group, own_group), function = self.groups, conformal.conformal_p_values
            self.p_value = function(score, calibration_score, group, own_group)
            self._own = function(calibration_score, calibration_score, own_group, own_group)

    def _by_group(self):
        """(p-values, calibration's p-values, weights or None) of each group."""
        for name in np.unique(self.groups[0]):
            of_group = self._own[self.groups[1] == name]
            yield self.p_value[self.groups[0] == name], of_group, self.weight

    def share_wrong(self) -> dict[str, float]:
        return conformal.share_wrong(self._by_group(), len(self.p_value))

    def rate_bound(self, rate: float) -> float | None:
        """The rate that holds with 90% confidence; None if weighted: no distribution is known."""
        if self.by == "weighted":
            return None
        # Right labels have p-values above LAMBDA equally often in all groups.
        groups = [(np.sum(p > conformal.LAMBDA), len(own)) for p, own, _ in self._by_group()]
        right, sizes = np.transpose(groups)
        return conformal.rate_bound(rate, sizes, right / max(right.sum(), 1))

    def notes(self, rate: float, discovery: bool, any_suspect: bool) -> list[str]:
        notes, n = [], self.min_size
        possible = conformal.num_below(rate, n) > 0
        if n < FEW or not possible:
            text = (
                f"Only {n} calibration example{'s' * (n > 1)}: the smallest p-value is "
                f"1/{n + 1}, so rates below {1 / (n + 1):.1%} cannot be asked for"
            )
            if not possible:
                needed = conformal.min_calibration(rate)
                text += f". At {rate:.3g} nothing is suspect; that needs {needed:,}: {ADVICE}"
            notes.append(text + ".")
        elif discovery and not any_suspect:
            notes.append(
                f"With {n} calibration examples a false discovery rate of {rate:.3g} is reached "
                f"only if at least {1 / rate / (n + 1):.1%} of the labels score below all of them."
            )
        if self.by == "weighted":
            notes.append(
                "The classes of the calibration set have other shares than those of the training "
                f"labels that look right. Its {n} examples are weighted by class, and are worth "
                f"{conformal.effective_number(self.weight):.0f}; the false-alarm rate that holds "
                "with 90% confidence is unknown."
            )
        if len(self.absent):
            names = ", ".join(map(str, self.absent[:10])) + ", ..." * (len(self.absent) > 10)
            notes.append(
                f"No calibration example of class {names}: its labels are judged by the other "
                "classes, without a guarantee."
            )
        return notes


def _shifted_shares(label, score, calibration_counts):
    """The class shares of right training labels, [K]; None if calibration's are much like them.

    Right labels are taken to be those with a positive margin: the wrong ones that background noise
    heaps up in one class have negative margins. The distance of the shares must be above SHIFT,
    below which the false-alarm rate cannot move much, and above that of 1,000 random draws.
    """
    right = np.bincount(label[score > 0], minlength=len(calibration_counts))
    if not right.sum():
        return None
    shares, n = right / right.sum(), calibration_counts.sum()
    draws = np.random.default_rng(0).multinomial(n, shares, size=1_000)
    by_chance = 0.5 * np.abs(draws / n - shares).sum(axis=1).max()
    distance = 0.5 * np.abs(calibration_counts / n - shares).sum()
    return shares if distance > max(SHIFT, by_chance) else None


def plain_threshold(score, task, num_outputs):
    """Which labels are suspect if nothing says how right labels score, bool [N]."""
    if task != "regression" or not len(score):
        return score < 0
    from scipy.stats import chi2

    # The distance of normal errors in D dimensions has the distribution chi with D degrees.
    typical, limit = chi2.ppf([0.5, OUTLIER], num_outputs)
    return -score > np.median(-score) * np.sqrt(limit / typical)


def _suggested_label(examples, seen, task):
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
    return np.where(seen, np.argmax(log_probability, axis=1), label).astype(label.dtype)


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
