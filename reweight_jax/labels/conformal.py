"""Conformal p-values of 'this label is right', and what follows from them.

A calibration example has a right label and was part of no gradient. If a right training label's
score is as likely to have any rank among the n calibration scores, then its p-value

    p = (1 + number of calibration scores <= score) / (1 + n)

is at most `rate` with probability at most `rate`, whatever the model and the scores. Bates et al.,
"Testing for outliers with conformal p-values" (Annals of Statistics 2023, arXiv 2104.08279).
"""

import numpy as np

LAMBDA = 0.1  # see `share_wrong`
NUM_DRAWS = 10_000


def p_values(
    scores: np.ndarray,
    weight: np.ndarray,
    group: np.ndarray,
    calibration: np.ndarray,
    calibration_weight: np.ndarray,
    calibration_group: np.ndarray,
) -> np.ndarray:
    """Returns the p-value of each score, float [N]; low scores have low p-values.

    Args:
      scores: float [N].
      weight: float [N], how many times more frequent the example's kind is among the scores to
        judge than among the calibration scores; ones if both are alike. This is weighted conformal
        prediction (Tibshirani et al., "Conformal prediction under covariate shift", NeurIPS 2019).
      group: int [N]; each score is compared with the calibration scores of its own group only, so
        that `rate` holds in every group (Vovk's Mondrian conformal prediction).
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
    """Returns which of the hypotheses are rejected, bool [N], at the false discovery rate `rate`.

    The p-values share the calibration set, but depend on each other positively, so that the rate
    holds as for independent ones (Bates et al., theorem 2).
    """
    if not len(p_values):
        return np.zeros(0, bool)
    in_order = np.sort(p_values)
    passes = np.flatnonzero(in_order <= rate * np.arange(1, len(p_values) + 1) / len(p_values))
    return p_values <= (in_order[passes[-1]] if len(passes) else -1)


def num_below(rate: float, num_calibration: np.ndarray | int) -> np.ndarray | int:
    """Returns the largest k with k / (n + 1) <= rate: p <= rate is score < k-th smallest of n."""
    k = np.floor(rate * (np.asarray(num_calibration) + 1)).astype(int)
    # rate * (n + 1) is rounded: 0.29 * 100 is below 29.
    return k + ((k + 1) / (np.asarray(num_calibration) + 1) <= rate)


def min_calibration(rate: float) -> int:
    """Returns the least number n of calibration scores with 1 / (n + 1) <= rate."""
    n = max(1, int(1 / rate) - 2)
    while num_below(rate, n) == 0:
        n += 1
    return n


def rate_bound(
    rate: float, num_calibration: np.ndarray, shares: np.ndarray, confidence: float = 0.9
) -> float:
    """Returns the false-alarm rate of `p <= rate` that holds with probability `confidence`.

    The mean rate over calibration sets is at most `rate`; that of one set scatters. It is the
    probability that a right label's score is below the k-th smallest of n calibration scores:
    Beta(k, n + 1 - k) distributed, or stochastically less if scores tie (Vovk 2012, "Conditional
    validity of inductive conformal predictors").

    Args:
      rate: asked for.
      num_calibration: int [G], n of each group; one group if p-values have none.
      shares: float [G], the share of right labels that are in the group; they sum to one.
      confidence: exact for one group; of several, from draws of a fixed seed.
    """
    from scipy.stats import beta

    n = np.asarray(num_calibration)
    k = num_below(rate, n)
    if len(n) == 1:
        return float(beta.ppf(confidence, k[0], n[0] + 1 - k[0])) if k[0] else 0.0
    draws, rng = np.zeros(NUM_DRAWS), np.random.default_rng(0)
    for g in np.flatnonzero(k):
        draws += shares[g] * rng.beta(k[g], n[g] + 1 - k[g], NUM_DRAWS)
    return float(np.quantile(draws, confidence))


def most_flagged(
    rate: float, num_calibration: np.ndarray, num_labels: np.ndarray, confidence: float = 0.9
) -> float:
    """Returns how many labels have `p <= rate` at most, with a probability, if all are right.

    `rate_bound` is of infinitely many labels; these are finitely many, and scatter too.

    Args:
      rate: asked for.
      num_calibration, num_labels: int [G], of each group.
      confidence: of the bound, from draws of a fixed seed.
    """
    draws, rng = np.zeros(NUM_DRAWS), np.random.default_rng(0)
    k = num_below(rate, num_calibration)
    for g in np.flatnonzero(k):
        coverage = rng.beta(k[g], num_calibration[g] + 1 - k[g], NUM_DRAWS)
        draws += rng.binomial(num_labels[g], coverage)
    return float(np.quantile(draws, confidence))


def effective_number(weight: np.ndarray) -> float:
    """Returns Kish's number of equally weighted examples that scatter like those of `weight`."""
    return float(weight.sum() ** 2 / np.sum(weight**2))


def right_labels(rng, p_values, calibration_p_values, weight):
    """Returns (point, draws): how many of N labels are right, an upper estimate after Storey.

    Storey, "A direct approach to false discovery rates" (2002): the p-values above LAMBDA are those
    of right labels, of which they are a fraction V. V is uncertain, because it is known from the
    calibration scores only: Beta distributed, being a coverage of order statistics.

    Args:
      rng: numpy generator.
      p_values: float [N] of a group.
      calibration_p_values: float [n], those of the group's calibration scores among themselves.
      weight: float [n], of the calibration scores. If they differ, n is Kish's effective number,
        and the distribution of V an approximation.

    Returns:
      The estimate, and NUM_DRAWS draws of it that have its uncertainty, float [NUM_DRAWS].
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


def share_wrong(groups, num_examples: int, confidence: float = 0.9) -> dict[str, float]:
    """Returns an estimate of the share of wrong labels, with an interval.

    The share is low where wrong labels have p-values above LAMBDA, that is, look right to the
    model. It is also low if the right labels were trained on and have hardly any p-value below
    LAMBDA; the upper end of the interval counts all of these as wrong, the lower one as many as
    the scatter of both sets of scores allows. A larger LAMBDA, such as Storey's 0.5, is misled
    more by training.

    Args:
      groups: of each group the arguments of `right_labels` after the first.
      num_examples: N of all groups.
      confidence: of the interval.

    Returns:
      "share", "low", "high", "confidence".
    """
    rng, groups = np.random.default_rng(0), list(groups)
    points, draws = zip(*(right_labels(rng, *group) for group in groups), strict=True)
    tail = (1 - confidence) / 2
    wrong = np.clip(1 - sum(draws) / num_examples, 0, 1)
    low, high = np.quantile(wrong, [tail, 1 - tail])
    share = min(max(1 - sum(points) / num_examples, 0.0), 1.0)
    high = max(high, sum(np.sum(group[0] <= LAMBDA) for group in groups) / num_examples)
    return {
        "share": float(share),
        "low": float(min(low, share)),
        "high": float(max(high, share)),
        "confidence": confidence,
    }
