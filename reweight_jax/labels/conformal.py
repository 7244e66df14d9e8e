"""Conformal p-values of 'this label is right', and what follows from them.

A calibration example has a right label and was part of no gradient. If a right training label's
score is as likely to have any rank among the n calibration scores, then its p-value

    p = (1 + number of calibration scores <= score) / (1 + n)

is at most `rate` with probability at most `rate`, whatever the model and the scores. Bates et al.,
"Testing for outliers with conformal p-values" (Annals of Statistics 2023, arXiv 2104.08279).
"""

import math

import numpy as np

LAMBDA = 0.1  # see `share_wrong`
CONFIDENCE = 0.9  # of all bounds and intervals
NUM_DRAWS = 10_000  # of a fixed seed


def p_values(scores, weight, group, calibration, calibration_weight, calibration_group):
    """Returns the p-value of each score, float [N]; low scores have low p-values.

    Args:
      scores: float [N].
      weight: float [N], how many times more frequent the example's kind is among the scores than
        among the calibration scores, or ones (Tibshirani et al., "Conformal prediction under
        covariate shift", NeurIPS 2019).
      group: int [N]; a score is compared with the calibration scores of its group, so that `rate`
        holds in every group (Vovk's Mondrian conformal prediction).
      calibration, calibration_weight, calibration_group: [n], likewise, of right labels. A group
        without calibration scores has p-values of 1.
    """
    found = np.ones(len(scores))
    for name in np.unique(group):
        rows, members = np.flatnonzero(group == name), np.flatnonzero(calibration_group == name)
        members = members[np.argsort(calibration[members], kind="stable")]
        totals = np.concatenate([[0.0], np.cumsum(calibration_weight[members])])
        below = totals[np.searchsorted(calibration[members], scores[rows], side="right")]
        # Of ones the sums are whole: equal to a `rate` such as 0.05 whenever it should be.
        found[rows] = (below + weight[rows]) / (totals[-1] + weight[rows])
    return found


def benjamini_hochberg(p_values: np.ndarray, rate: float) -> np.ndarray:
    """Returns which hypotheses are rejected, bool [N], at the false discovery rate `rate`.

    The rate holds although the p-values share the calibration set (Bates et al., theorem 2).
    """
    in_order = np.sort(p_values)
    passes = np.flatnonzero(in_order <= rate * np.arange(1, len(p_values) + 1) / len(p_values))
    return p_values <= (in_order[passes[-1]] if len(passes) else -1)


def num_below(rate: float, num_calibration: np.ndarray | int) -> np.ndarray:
    """Returns the largest k with k / (n + 1) <= rate: p <= rate is score < k-th smallest of n."""
    return np.floor(rate * (np.asarray(num_calibration) + 1) + 1e-9).astype(int)  # not 0.29 * 100


def min_calibration(rate: float) -> int:
    """Returns the least number n of calibration scores with 1 / (n + 1) <= rate."""
    return max(1, math.ceil(1 / rate - 1e-9) - 1)


def rate_bound(rate: float, num_calibration: np.ndarray, shares: np.ndarray) -> float:
    """Returns the false-alarm rate of `p <= rate` that holds with probability CONFIDENCE.

    The mean rate over calibration sets is at most `rate`. That of one set is the probability that a
    right label's score is below the k-th smallest of n: Beta(k, n + 1 - k) distributed, or less if
    scores tie (Vovk 2012, "Conditional validity of inductive conformal predictors").

    `num_calibration`: int [G], n of each group; `shares`: float [G], of the right labels.
    """
    from scipy.stats import beta

    n = np.asarray(num_calibration)
    k = num_below(rate, n)
    if len(n) == 1:
        return float(beta.ppf(CONFIDENCE, k[0], n[0] + 1 - k[0])) if k[0] else 0.0
    draws, rng = np.zeros(NUM_DRAWS), np.random.default_rng(0)
    for g in np.flatnonzero(k):
        draws += shares[g] * rng.beta(k[g], n[g] + 1 - k[g], NUM_DRAWS)
    return float(np.quantile(draws, CONFIDENCE))


def most_flagged(rate: float, num_calibration: np.ndarray, num_labels: np.ndarray) -> float:
    """Returns how many of N right labels have `p <= rate`, at most, with probability CONFIDENCE.

    `num_calibration`, `num_labels`: int [G], of each group.
    """
    draws, rng = np.zeros(NUM_DRAWS), np.random.default_rng(0)
    k = num_below(rate, num_calibration)
    for g in np.flatnonzero(k):
        coverage = rng.beta(k[g], num_calibration[g] + 1 - k[g], NUM_DRAWS)
        draws += rng.binomial(num_labels[g], coverage)
    return float(np.quantile(draws, CONFIDENCE))


def effective_number(weight: np.ndarray) -> float:
    """Returns Kish's number of equally weighted examples that scatter like those of `weight`."""
    return float(weight.sum() ** 2 / np.sum(weight**2))


def right_labels(rng, p_values, calibration_p_values, weight):
    """Returns (point, draws [NUM_DRAWS]): how many labels of a group are right, at most.

    Storey, "A direct approach to false discovery rates" (2002): the p-values above LAMBDA are those
    of right labels, of which they are a fraction V. V is known from the calibration scores only:
    Beta distributed, being a coverage of order statistics.

    Args:
      rng: numpy generator.
      p_values: float [N].
      calibration_p_values: float [n], of the group's calibration scores among themselves.
      weight: float [n], of these. If they differ, n is Kish's effective number: an approximation.
    """
    n = effective_number(weight)
    # With one or two calibration scores the smallest p-value is above LAMBDA.
    cut = max(LAMBDA, 1 / (n + 1))
    count = np.sum(p_values > cut)
    # Without ties, n (1 - below) is n + 1 - m for the m-th smallest calibration score.
    above = n * np.sum(weight[calibration_p_values > cut]) / weight.sum()
    a, b = max(above, 0.5), n - above + 1
    fraction = rng.beta(a, b, NUM_DRAWS)
    noise = np.sqrt(count * (1 - fraction)) * rng.standard_normal(NUM_DRAWS)
    return count * (a + b) / a, (count + noise) / fraction


def share_wrong(groups, num_examples: int) -> dict[str, float]:
    """Returns an estimate of the share of wrong labels: "share", "low", "high", "confidence".

    It is low if wrong labels have p-values above LAMBDA (they look right), or if right labels were
    trained on and have hardly any below it; the upper end of the interval counts all of these as
    wrong. A larger LAMBDA, such as Storey's 0.5, is misled more by training.

    `groups`: of each one the arguments of `right_labels` after the first; `num_examples`: N of all.
    """
    rng, groups = np.random.default_rng(0), list(groups)
    points, draws = zip(*(right_labels(rng, *group) for group in groups), strict=True)
    tail = (1 - CONFIDENCE) / 2
    wrong = np.clip(1 - sum(draws) / num_examples, 0, 1)
    low, high = np.quantile(wrong, [tail, 1 - tail])
    share = min(max(1 - sum(points) / num_examples, 0.0), 1.0)
    high = max(high, sum(np.sum(group[0] <= LAMBDA) for group in groups) / num_examples)
    low, high = float(min(low, share)), float(max(high, share))
    return {"share": float(share), "low": low, "high": high, "confidence": CONFIDENCE}
