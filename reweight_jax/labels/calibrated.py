"""Training scores beside those of the calibration set: all together, by class, or weighted."""

import numpy as np

from reweight_jax.data.targets import listed
from reweight_jax.labels import conformal

SHIFT = 0.2  # total variation distance of class shares from which calibration is weighted
Z_90 = 1.28  # standard deviations: counts are above a bound that is so much lower in 90%
FACTOR = 2.0  # how many times its calibration share a class may have if that is drawn by class
RELIABLE = 0.75  # share of the calibration examples with a positive margin; see `contradicts` too
MAX_WEIGHT = 5.0
FEW = 20  # calibration examples, of all classes or of one
LOW = 0.1  # p-values by which wrong labels are noticed at all

ADVICE = (
    "keep a part of the trusted set out of the gradient with config.data.num_calibration, or give "
    "more trusted examples as calibration="
)


def scores(examples: dict[str, np.ndarray]) -> np.ndarray:
    """Returns the mean margin, float64 [N]; of margins [N, K] the smallest one of the known tags.

    NaN if the example was never visited, or has no known tag.
    """
    margin = np.asarray(examples["margin"], np.float64)
    if margin.ndim == 1:
        return margin
    lowest = np.where(examples["label"] >= 0, margin, np.inf).min(axis=1)
    return np.where(lowest == np.inf, np.nan, lowest)


def contradicts(calibration: np.ndarray) -> bool:
    """Returns whether a model clearly contradicts more right labels than 1 - RELIABLE.

    By a binomial test at 5% of the margins of the calibration set, float [n]. Fewer than FEW say
    nothing.
    """
    from scipy.stats import binomtest

    right, n = int(np.sum(calibration > 0)), len(calibration)
    return n >= FEW and bool(binomtest(right, n, RELIABLE, alternative="less").pvalue <= 0.05)


def border(score: np.ndarray, calibration: np.ndarray) -> float:
    """Returns the margin, at most 0, above which a label is believed by a model that `contradicts`.

    It is where the share of the training scores [N] below it exceeds that of the calibration scores
    [n] most (Kolmogorov and Smirnov): below it wrong labels are denser than right ones.
    """
    values = np.unique(np.concatenate([score, calibration]))
    below = [np.searchsorted(np.sort(of), values) / len(of) for of in (score, calibration)]
    lowest_kept = values[np.argmax(below[0] - below[1])]
    return min(0.0, float(np.nextafter(lowest_kept, -np.inf)))


class Reference:
    """How training scores are compared with calibration scores.

    Attributes:
      size: n.
      score: float [n], of the calibration examples.
      by: "all", "class" or "weighted".
      p_value: float [N], of the training labels.
      smallest: class -> the smallest p-value that a label of it can have, if weighted.
      may_differ: whether classes seem to have other shares, but the model errs too often to weight.
    """

    def __init__(self, label, score, calibration, task, num_outputs, rate):
        calibration_score = scores(calibration)
        known = ~np.isnan(calibration_score)
        calibration_score = calibration_score[known]
        self.score, self.size = calibration_score, len(calibration_score)
        self.by, label_pair = "all", (label, np.asarray(calibration["label"])[known])
        # Those of training and of calibration examples: one group, unless compared by class.
        self.groups = np.zeros(len(score), int), np.zeros(self.size, int)
        weight, self.weight = np.ones(len(score)), np.ones(self.size)
        self.min_size, self.absent, self.smallest = self.size, (), {}
        self.may_differ = False
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
            # The sign of the margin must mostly be right, or the shares are those of its errors.
            elif np.mean(calibration_score > 0) < RELIABLE:
                given = np.bincount(label, minlength=num_outputs)
                self.may_differ = _shifted_shares(given, counts) is not None
            elif (
                shares := _shifted_shares(
                    _right_labels(label, score, label_pair[1], calibration_score, num_outputs),
                    counts,
                )
            ) is not None:
                self.by = "weighted"
                weights = shares * self.size / np.maximum(counts, 1)
                # Nothing is known of an absent class, and little of one that looks absent.
                weights = np.clip(np.where(counts > 0, weights, 1.0), 1 / MAX_WEIGHT, MAX_WEIGHT)
                weight, self.weight = weights[label_pair[0]], weights[label_pair[1]]
                total = self.weight.sum()
                self.smallest = {k: weights[k] / (total + weights[k]) for k in in_training}
        of_calibration = calibration_score, self.weight, self.groups[1]
        self.p_value = conformal.p_values(score, weight, self.groups[0], *of_calibration)
        self._own = conformal.p_values(*of_calibration, *of_calibration)

    def _by_group(self):
        """(p-values, calibration's p-values and their weights) of each group."""
        for name in np.unique(self.groups[0]):
            members = self.groups[1] == name
            yield self.p_value[self.groups[0] == name], self._own[members], self.weight[members]

    def share_wrong(self) -> dict[str, float]:
        return conformal.share_wrong(self._by_group(), len(self.p_value))

    def rate_bound(self, rate: float) -> float | None:
        """The rate that holds with 90% confidence; None if its distribution is not known."""
        if self.by == "weighted" or self.may_differ:
            return None
        # Right labels have p-values above LAMBDA equally often in all groups.
        groups = [
            (np.sum(p > conformal.LAMBDA), len(p), len(own)) for p, own, _ in self._by_group()
        ]
        right, num_labels, sizes = np.transpose(groups)
        shares = right if right.any() else num_labels
        return conformal.rate_bound(rate, sizes, shares / shares.sum())

    def finds_wrong_labels(self) -> bool | None:
        """Whether more labels have p-values up to LOW than if all of them were right.

        More than in nine of ten draws of as many right ones and of a calibration set; an
        approximation if weighted. None if there are too few calibration examples to say.
        """
        sizes = [(len(p), int(conformal.effective_number(w))) for p, _, w in self._by_group()]
        num_labels, num_calibration = np.transpose(sizes)
        if not conformal.num_below(LOW, num_calibration.min()):
            return None
        bound = conformal.most_flagged(LOW, num_calibration, num_labels)
        return bool(np.sum(self.p_value <= LOW) > bound)

    def notes(self, rate: float, discovery: bool, any_suspect: bool, classes=()) -> list[str]:
        """What must be known of the list, in words; `classes`: their names, else 0..K-1."""
        notes, n = [], self.min_size
        possible = conformal.num_below(rate, n) > 0

        def named(labels):
            return listed([classes[k] for k in labels] if classes else labels)

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
                "with 90% confidence is unknown, and the estimate of wrong labels is approximate."
            )
            never = [k for k, p in self.smallest.items() if p > rate]
            if never and possible:
                lowest = min(self.smallest[k] for k in never)
                notes.append(
                    f"No label of class {named(never)} can be suspect at {rate:.3g}: the smallest "
                    f"p-value there is {lowest:.2g}. It needs more calibration examples: {ADVICE}."
                )
        if self.may_differ:
            notes.append(
                "The classes of the calibration set have other shares than those of the training "
                "labels, and the model errs too often to weight them by class: if the right "
                "labels have other shares too, the rates do not hold."
            )
        if len(self.absent):
            notes.append(
                f"No calibration example of class {named(self.absent)}: its labels are judged by "
                "the other classes, without a guarantee."
            )
        return notes


def _right_labels(label, score, calibration_label, calibration_score, num_outputs):
    """An estimate of how many labels of each class are right, float [K].

    Those with a positive margin, divided by the share of right labels that have one: of a class
    with 5 calibration examples its share among them, smoothed by two examples with the share of all
    classes; of others the latter.
    """
    looks_right = calibration_score > 0
    found, all_of, right = (
        np.bincount(labels, minlength=num_outputs)
        for labels in (label[score > 0], calibration_label, calibration_label[looks_right])
    )
    share = (right + 2 * looks_right.mean()) / (all_of + 2)
    return found / np.where(all_of >= 5, share, looks_right.mean())  # fewer say nothing


def _shifted_shares(right, calibration_counts):
    """The shares of `right`, numbers of labels [K]; None if those of calibration are close.

    Their distance must be above SHIFT and above that of 1,000 random draws. If calibration has
    equally many examples of each class, it is enough that one has FACTOR times its share there.
    """
    n, present = calibration_counts.sum(), calibration_counts > 0
    if not right.sum() or not n:
        return None
    shares = right / right.sum()
    is_even = n >= FEW and np.ptp(calibration_counts[right > 0]) <= 1
    lowest = (right - Z_90 * np.sqrt(right)) / right.sum()
    if is_even and np.max(n * lowest[present] / calibration_counts[present]) > FACTOR:
        return shares
    draws = np.random.default_rng(0).multinomial(n, shares, size=1_000)
    by_chance = 0.5 * np.abs(draws / n - shares).sum(axis=1).max()
    distance = 0.5 * np.abs(calibration_counts / n - shares).sum()
    return shares if distance > max(SHIFT, by_chance) else None
