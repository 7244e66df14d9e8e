"""Whether the weights of a run can be trusted: warnings in words, for the log and the report."""

import math

import numpy as np

from reweight_jax.data.corrections import label_texts
from reweight_jax.data.targets import listed
from reweight_jax.labels.calibrated import scores
from reweight_jax.labels.quality import plain_threshold
from reweight_jax.methods import METHODS

# Clean loss: the labels have probability 0.999. Runs of digits with 10 to 100 clean examples end at
# 0.005 to 0.4.
SATURATED = 1e-3
FEW_EFFECTIVE = 0.05  # effective sample size by batch size; the same runs have 0.06 to 0.4
STARVED = 0.1  # weight of a class by the least that it should have
# Training loss of 100 steps (or of an interval of the log, if that is longer) by that of guessing.
# Runs of digits have at most 0.7; a ResNet-32 whose first steps damaged it had 5.7.
LOSS_SPIKE = 2.0
MIN_STEPS = 50  # of a mean of losses: a single batch says little
MIN_TRUSTED = {"clean": 10, "calibration": 20}  # the paper has 10
MAX_ROWS = 10  # named in a sentence
LONGEST = 60  # characters of the tags of a row


def health(
    records: list[dict], result: dict, config, trusted: dict, classes: tuple = ()
) -> list[str]:
    """Returns sentences on what is not well, with the number that says so and what to do.

    Args:
      records: of metrics.jsonl.
      result: the contents of result.json.
      config: the run's.
      trusted: "clean", "calibration" (those there are) -> {"index": [n], names or numbers of the
        examples in their source, "label": [n, ...], "margin": float [n] or [n, K] (multi_label),
        "suggested_label": like label}.
      classes: names of the classes; (): labels are shown as they are.

    Returns:
      At most one sentence of each kind; [] if all is well.
    """
    # Settled steps and a warm-up are plain, and those of later phases have other weights.
    start, stop = result.get("warm_up", {"step": 0})["step"], config.num_steps
    if result.get("settled"):
        stop = result["unsettled"]["step"]
    trains, evals = (
        [r for r in records if r["kind"] == kind and start < r["step"] <= stop]
        for kind in ("train", "eval")
    )
    found = [_loss_spike(records, config)]
    if METHODS[config.method].needs_clean:
        found += [_saturated(evals), _unhelpful(trains, start)]
        found += [_starved(trains, result, trusted, classes), _few_effective(trains, start, config)]
    found += [_not_settled(result), _has_learnt_nothing(trusted, config.task, result)]
    found += [_doubted(trusted, config.task, result, classes), _few_trusted(trusted)]
    return list(filter(None, [*found, _plain_is_better(result, config, trusted)]))


def _not_settled(result):
    if result.get("settled", True):
        return None
    judge = " Then the model was trained on the clean examples alone, and judged the labels."
    if "judge_retrained" in result:
        judge += " So was the retrained one, which judged last."
    return (
        "After config.settle_at of the steps the model still learnt fast, or contradicted many of "
        "the trusted examples. So the run did not settle on the labels that it believes: "
        f"reweighting went on.{judge if 'judge' in result else ''} More steps or a larger model "
        "may help; config.compare_plain tells whether plain training is better."
    )


def _loss_spike(records, config):
    trains = [r for r in records if r["kind"] == "train" and r["step"] <= config.num_steps]
    if config.task != "classification" or not trains:
        return None
    steps, guessing = np.array([r["step"] for r in trains]), math.log(len(trains[0]["class_mass"]))
    lengths, windows = np.diff([0, *steps]), (steps - 1) // 100
    counts = np.bincount(windows, lengths)
    sums = np.bincount(windows, lengths * [r["loss"] for r in trains])
    losses = np.where(counts >= MIN_STEPS, sums / np.maximum(counts, 1), 0)
    worst = int(losses.argmax())
    if not losses[worst] > LOSS_SPIKE * guessing:
        return None
    last = steps[windows == worst][-1]
    return (
        f"In steps {last - int(counts[worst]) + 1:,} to {last:,} the training loss was "
        f"{losses[worst]:.3g} on average, and guessing gives {guessing:.2f}: such steps can harm "
        "the model for good. Lower config.learning_rate; standardise float inputs "
        "(config.data.standardize)."
    )


def _saturated(evals):
    losses = [(r["step"], r["clean"]["loss"]) for r in evals if "clean" in r]
    if len(losses) < 2 or losses[-1][1] >= SATURATED:
        return None
    first = losses[-1][0]
    for step, loss in reversed(losses):
        if loss >= SATURATED:
            break
        first = step
    # At the end of a run a small clean loss does no harm.
    if first > 0.75 * losses[-1][0]:
        return None
    return (
        f"From step {first:,} on the loss of the clean set is below {SATURATED:g} (at the end "
        f"{losses[-1][1]:.2g}): the model has learnt it by heart, and its gradient says little. "
        "Give more trusted examples, train for fewer steps, or settle earlier (config.settle_at)."
    )


def _unhelpful(trains, start):
    if not trains:
        return None
    count = sum(r["steps_without_helpful_example"] for r in trains)
    steps = trains[-1]["step"] - start
    if count <= 0.5 * steps:
        return None
    return (
        f"{count:,} of {steps:,} steps had no helpful example, so that they had no gradient or, "
        'with config.on_zero_weights="uniform", were plain ones. Take a larger config.batch_size '
        "or config.clean_batch_size, and check that the trusted set is of the same kind as the "
        "training set."
    )


def _starved(trains, result, trusted, classes):
    masses = [r["class_mass"] for r in trains if "class_mass" in r]
    per_class = (result.get("labels") or {}).get("per_class")
    if not masses or not per_class:
        return None
    mass, counts = np.mean(masses, axis=0), np.zeros(len(masses[0]))
    for row in per_class:
        counts[row["label"]] = row["examples"]
    if not mass.sum() > 0 or not counts.sum():
        return None
    mass, share = mass / mass.sum(), counts / counts.sum()
    # A class that is most of the data should lose weight, one that is rare may keep its share.
    least = STARVED * np.minimum(share, 1 / np.sum(counts > 0))
    starved = np.flatnonzero((counts > 0) & (mass < least))
    if not len(starved):
        return None
    text = "; ".join(
        f"{_shown(k, classes)} has {mass[k]:.2%} of it and {share[k]:.1%} of the labels"
        for k in starved[:MAX_ROWS]
    )
    absent = []
    if "clean" in trusted:
        label = trusted["clean"]["label"]
        absent = [_shown(k, classes) for k in starved if not np.any(label == k)]
    remedy = (
        f"The clean set has no example of {listed(absent)}: add some."
        if absent
        else "Look at its labels in the report, and at those of the trusted examples; give more "
        "trusted examples of it."
    )
    return f"Class{'es' * (len(starved) > 1)} almost without weight: {text}. {remedy}"


def _few_effective(trains, start, config):
    # A step without a helpful example counts as zero in the mean.
    lengths = np.diff([start, *(r["step"] for r in trains)])
    steps = lengths.sum() - sum(r["steps_without_helpful_example"] for r in trains)
    if steps <= 0:
        return None
    size = float(np.dot(lengths, [r["effective_sample_size"] for r in trains]) / steps)
    if size >= FEW_EFFECTIVE * config.batch_size:
        return None
    return (
        f"A step's weights lie on few examples: the effective sample size is {size:.1f} of "
        f"{config.batch_size} on average, so that the updates are noisy. Take a larger "
        "config.batch_size or a larger config.clean_batch_size."
    )


def _has_learnt_nothing(trusted, task, result):
    """Whether the best constant answer is as good on the trusted examples as the model is."""
    given = [(np.asarray(e["label"]), np.asarray(e["suggested_label"])) for e in trusted.values()]
    if not given or sum(len(label) for label, _ in given) < MIN_TRUSTED["clean"]:
        return None
    label, answer = map(np.concatenate, zip(*given, strict=True))
    if task == "classification":
        error, constant = np.mean(answer != label), 1 - np.bincount(label).max() / len(label)
        text = f"is wrong on {error:.1%} of the trusted examples, and one class for all would be"
        text += f" on {constant:.1%}"
    elif task == "regression":
        label, answer = np.float64(label), np.float64(answer)
        error, constant = np.sqrt(np.mean((answer - label) ** 2)), np.sqrt(label.var(0).mean())
        text = f"has an RMSE of {error:.4g} on the trusted examples, and their mean one of"
        text += f" {constant:.4g}"
    else:  # of several tags most are off, and a good model may be no better than none
        return None
    if error < constant or constant == 0:  # 0: one answer is right for all
        return None
    return (
        f"The model has learnt nothing: it {text}. Try another config.learning_rate, train for "
        "more steps, or check that the inputs are what the model expects."
        f"{'' if 'judge' in result else ' The list says nothing.'}"
    )


def _doubted(trusted, task, result, classes):
    rows, total, summary = [], 0, result.get("labels") or {}
    for split, examples in trusted.items():
        label, score = np.asarray(examples["label"]), scores(examples)
        seen = np.flatnonzero(~np.isnan(score))
        total += len(seen)
        num_outputs = label.shape[1] if label.ndim > 1 else 1  # of regression
        for i in seen[plain_threshold(score[seen], task, num_outputs)]:
            suggested = examples["suggested_label"][i]
            rows.append((score[i], split, examples["index"][i], label[i], suggested))
    if not rows:
        return None
    # A good model may doubt one of many tags in most examples.
    is_weak = total >= MIN_TRUSTED["calibration"] and 4 * len(rows) > total
    if task == "classification" and (is_weak or summary.get("contradicted")):
        return (
            f"The model doubts {len(rows)} of {total} trusted examples. If their labels are right, "
            "it is too weak to judge others: take more steps, a larger model or more such examples."
        )
    rows.sort(key=lambda row: row[0])
    text = "; ".join(
        f"{split} {index} (label {_shown(label, classes)}, model {_shown(suggested, classes)})"
        for _, split, index, label, suggested in rows[:MAX_ROWS]
    )
    more = ", the worst" if len(rows) > MAX_ROWS else ""
    return (
        f"The model doubts {len(rows)} of {total} trusted examples{more}: {text}. Look at them: a "
        "wrong label in the trusted set misleads the weights, and raises the p-values."
    )


def _few_trusted(trusted):
    sizes = {split: len(examples["label"]) for split, examples in trusted.items()}
    few = {split: size for split, size in sizes.items() if size < MIN_TRUSTED[split]}
    if not few:
        return None
    counts, least = (
        " and ".join(f"{of[split]} {split}" for split in few) for of in (sizes, MIN_TRUSTED)
    )
    return (
        f"Only {counts} examples: too few to say how good the weights and the list of suspects "
        f"are. Label more: at least {least} examples."
    )


def _plain_is_better(result, config, trusted):
    """Plain training or the best step, if calibration scores tell them apart by more than chance.

    The two models are compared as if on different examples. Of one set their errors go together, so
    that the difference scatters less, and this says less than it could.
    """
    num_calibration = len(trusted.get("calibration", {"label": ()})["label"])
    score = "rmse" if config.task == "regression" else "accuracy"
    key = f"calibration_{score}"
    last = result["last"].get(key)
    if last is None or not num_calibration or config.method == "baseline":
        return None
    # The best step is the best of many by these very scores, and so has to be much better.
    others = {"plain": ("Plain training", 1.645), "best": ("Stopping at the best step", 2.576)}
    for name, (text, z) in others.items():
        other = result.get(name, {}).get(key)
        if other is None or _z(other, last, num_calibration, score) <= z:
            continue
        style = ".4g" if score == "rmse" else ".1%"
        which = 'config.method="baseline"'
        which = which if name == "plain" else f"step {result['best']['step']:,}"
        return (
            f"{text} would have been better ({which}): {score} {other:{style}} against "
            f"{last:{style}} on {num_calibration} calibration examples, which is more than chance."
        )
    return None


def _z(better, worse, n, score):
    """By how many standard deviations `better` is better than `worse`, each of n examples."""
    if score == "rmse":
        # The logarithm of a mean of n squared normal errors scatters by sqrt(2 / n).
        return 2 * math.log(max(worse, 1e-30) / max(better, 1e-30)) / math.sqrt(4 / n)
    # Agresti and Caffo (2000): one success and one failure more, so that 100% has a deviation too.
    p, q = ((value * n + 1) / (n + 2) for value in (better, worse))
    return (p - q) / math.sqrt((p * (1 - p) + q * (1 - q)) / (n + 2))


def _shown(label, classes):
    if classes:
        text = label_texts(np.asarray([label]), classes)[0] or "none"
        return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
    values = np.ravel(label)
    text = ", ".join(f"{v:.4g}" if isinstance(v, np.floating) else str(v) for v in values[:20])
    return text if np.ndim(label) == 0 else f"[{text}{', ...' * (len(values) > 20)}]"
