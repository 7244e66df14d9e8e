"""Each warning in words: said where it should be, with its number, and not otherwise."""

import re
import types

import numpy as np
import pytest

from reweight_jax.labels.health import health

STEPS = 1000


def config(**fields):
    defaults = {"method": "reweight", "task": "classification", "num_steps": STEPS}
    return types.SimpleNamespace(**defaults | {"batch_size": 100} | fields)


def train_record(step, **fields):
    record = {"step": step, "kind": "train", "loss": 0.5, "effective_sample_size": 30.0}
    return record | {"steps_without_helpful_example": 0, "class_mass": [0.5, 0.5]} | fields


def records(clean_losses=(0.5, 0.4, 0.3, 0.2), **fields):
    trains = [train_record(step, **fields) for step in range(100, STEPS + 1, 100)]
    steps = np.linspace(0, STEPS, len(clean_losses) + 1)[1:]
    evals = [
        {"step": int(step), "kind": "eval", "weights": {}, "clean": {"loss": loss}}
        for step, loss in zip(steps, clean_losses, strict=True)
    ]
    return trains + evals


def result(last=0.9, **phases):
    per_class = [{"label": k, "examples": 500, "suspects": 3} for k in (0, 1)]
    scores = {"last": last} | phases
    flat = {name: {"step": STEPS, "calibration_accuracy": score} for name, score in scores.items()}
    return flat | {"labels": {"per_class": per_class}}


def settled(step):
    return result() | {"settled": True, "unsettled": {"step": step}}


def trusted(**splits):
    def examples(n, first):
        label = np.arange(n) % 2
        margin = np.ones(n)
        return {"index": np.arange(first, first + n), "label": label, "margin": margin} | {
            "suggested_label": label.copy()
        }

    sizes = {"clean": 50, "calibration": 100} | splits
    return {name: examples(n, 1000 * i) for i, (name, n) in enumerate(sizes.items())}


def said(records=records(), result=result(), config=config(), trusted=trusted()):  # noqa: B008
    return health(records, result, config, trusted)


def one(*words, **arguments):
    (sentence,) = said(**arguments)
    for word in words:
        assert word in sentence, sentence
    return sentence


def test_nothing_is_said_of_a_healthy_run():
    assert said() == []
    assert said(records=[], trusted={}) == []
    assert said(result={"last": {"step": STEPS}}) == []


def test_a_spike_of_the_loss():
    def of(losses, every=100, **fields):
        steps = range(every, every * len(losses) + 1, every)
        return [train_record(k, loss=x, **fields) for k, x in zip(steps, losses, strict=True)]

    one("In steps 1 to 100 ", "was 1.4 ", "guessing gives 0.69", records=of([1.4, 0.6, 0.6]))
    assert said(records=of([1.38, 0.6, 0.6])) == []  # twice 0.693 is 1.386
    assert said(records=of([1.4, 0.6], class_mass=[0.1] * 10)) == []
    # A single batch says little: the mean of 100 steps does.
    late = of([0.5] * 10 + [6.0] + [0.5] * 9, every=10)
    assert said(records=late) == []
    one("In steps 101 to 200 ", "was 1.5 ", records=of([0.5] * 10 + [1.5] * 10, every=10))
    one("In steps 91 to 180 ", records=of([0.5, 1.5, 0.5], every=90))
    one("In steps 251 to 500 ", records=of([0.5, 1.5, 0.5, 0.5], every=250))
    # Nor does an interval that a phase, or the end of the run, cuts short.
    cut = [train_record(step, loss=loss) for step, loss in ((400, 0.5), (401, 9.0), (500, 0.5))]
    assert said(records=cut) == []
    assert said(records=of([0.5] * 9) + [train_record(901, loss=9.0)]) == []
    # It is also said of a warm-up and of other methods, but not of what comes after the run.
    one("In steps 1 to 100 ", records=of([9.0, 0.5]), result=result() | {"warm_up": {"step": 100}})
    one("In steps 1 to 100 ", records=of([9.0, 0.5]), config=config(method="baseline"))
    assert said(records=records() + [train_record(STEPS + 100, loss=9.0)]) == []
    assert said(records=of([9.0, 0.5]), config=config(task="regression"), trusted={}) == []


def test_clean_loss_saturated():
    one("From step 500 on", "0.0002", records=records((0.3, 8e-4, 5e-4, 2e-4)))
    assert said(records=records((0.3, 0.2, 0.1, 2e-4))) == []  # only at the end
    assert said(records=records((1e-4, 1e-4, 1e-4, 0.1))) == []  # it has recovered
    saturated = records((0.3, 8e-4, 5e-4, 2e-4))
    assert said(records=saturated, config=config(method="baseline")) == []  # uses no clean loss
    assert said(records=saturated, result=settled(500)) == []  # settled in time


def test_steps_without_a_helpful_example():
    one("600 of 1,000 steps", "on_zero_weights", records=records(steps_without_helpful_example=60))
    assert said(records=records(steps_without_helpful_example=40)) == []
    # Plain steps after settling have no unhelpful ones; half of the others had.
    early = [train_record(s, steps_without_helpful_example=60) for s in range(100, 501, 100)]
    late = [train_record(s) for s in range(600, 1001, 100)]
    one("300 of 500 steps", records=early + late, result=settled(500))
    went_on = result() | {"settled": False, "unsettled": {"step": 500}}
    assert len(said(records=early + late, result=went_on)) == 1  # that it did not settle
    # Nor have those of a warm-up.
    warmed_up = result() | {"warm_up": {"step": 500}}
    late = [train_record(s, steps_without_helpful_example=60) for s in range(600, 1001, 100)]
    early = [train_record(s) for s in range(100, 501, 100)]
    one("300 of 500 steps", records=early + late, result=warmed_up)


def test_a_starved_class():
    starved = records(class_mass=[0.97, 0.03])
    one("Class almost without weight: 1 has 3.00% of it and 50.0%", "more trusted", records=starved)
    assert said(records=records(class_mass=[0.9, 0.1])) == []
    no_class_1 = trusted()
    no_class_1["clean"]["label"][:] = 0
    one("The clean set has no example of 1", records=starved, trusted=no_class_1)
    (sentence,) = health(starved, result(), config(), no_class_1, ("cat", "owl"))
    assert "owl has 3.00% of it" in sentence and "has no example of owl" in sentence
    # A class that is most of the data may lose weight; a rare class may have as little as it is.
    skewed = result()
    for row, examples in zip(skewed["labels"]["per_class"], (990, 10), strict=True):
        row["examples"] = examples
    assert said(records=records(class_mass=[0.5, 0.5]), result=skewed) == []
    assert said(records=records(class_mass=[0.995, 0.005]), result=skewed) == []
    one("1 has 0.05%", records=records(class_mass=[0.9995, 0.0005]), result=skewed)
    # A class that is not in the data has no weight to lose.
    skewed["labels"]["per_class"][1]["examples"] = 0
    assert said(records=records(class_mass=[1.0, 0.0]), result=skewed, trusted=of_class_0()) == []


def of_class_0():
    parts = trusted()
    for part in parts.values():
        part["label"][:] = part["suggested_label"][:] = 0
    return parts


def test_a_small_effective_sample_size():
    one("3.0 of 100", records=records(effective_sample_size=3.0))
    assert said(records=records(effective_sample_size=6.0)) == []
    assert said(records=records(effective_sample_size=3.0), config=config(batch_size=32)) == []
    # Its mean has zeros for the steps without a helpful example: 4 is 8 in half of the steps.
    half = {"steps_without_helpful_example": 50}
    assert said(records=records(effective_sample_size=4.0, **half)) == []


def test_trusted_examples_that_the_model_doubts():
    doubted = trusted()
    doubted["clean"]["margin"][[3, 8]] = -1, -2
    doubted["calibration"]["margin"][5] = -0.5
    doubted["clean"]["suggested_label"][3] = 7
    sentence = one("doubts 3 of 150", "clean 3 (label 1, model 7)", trusted=doubted)
    assert re.findall(r"(\w+ \d+) \(", sentence) == ["clean 8", "clean 3", "calibration 1005"]
    doubted["clean"]["margin"][:20] = -1 - np.arange(20)
    sentence = one("doubts 21 of 150", trusted=doubted)
    rows = re.findall(r"clean (\d+)", sentence)
    assert rows == [str(row) for row in range(19, 9, -1)]
    unseen = trusted()
    unseen["clean"]["margin"][:] = np.nan
    assert said(trusted=unseen) == []
    doubted["clean"]["margin"][:37] = -1  # and one of calibration: more than a quarter
    sentence = one("doubts 38 of 150 trusted examples. If their labels are", trusted=doubted)
    assert "too weak to judge others" in sentence and "clean 3" not in sentence
    weak, few = result(), trusted()  # only the calibration examples tell it
    weak["labels"]["contradicted"] = True
    few["calibration"]["margin"][:20] = -1
    one("doubts 20 of 150", "too weak to judge others", result=weak, trusted=few)


def test_doubted_classes_have_their_names():
    doubted = trusted()
    doubted["clean"]["margin"][3] = -1
    doubted["clean"]["suggested_label"][3] = 2
    classes = ("benign", "malignant", "unclear")
    (sentence,) = health(records(), result(), config(), doubted, classes)
    assert "clean 3 (label malignant, model unclear)" in sentence


def test_doubted_tags_and_numbers():
    tags = trusted(clean=30)
    for examples in tags.values():
        n = len(examples["label"])
        examples["label"] = examples["suggested_label"] = np.tile([1, 0, -1], (n, 1))
        examples["margin"] = np.tile([2.0, 1.0, -4.0], (n, 1))
    multi_label = {"config": config(task="multi_label"), "records": records()}
    assert said(trusted=tags, **multi_label) == []
    tags["clean"]["margin"][4, 1] = -1
    one("clean 4 (label [1, 0, -1]", trusted=tags, **multi_label)
    for examples in tags.values():
        examples["suggested_label"] = np.zeros_like(examples["label"])
    named = health(records(), result(), config(task="multi_label"), tags, classes=("a", "b", "c"))
    assert "clean 4 (label a;?c, model none)" in named[0]
    names = [f"tag {k} {'of a long name' * 9}" for k in range(3)]
    named = health(records(), result(), config(task="multi_label"), tags, classes=names)
    assert len(named[0]) < 500 and "..., model none)" in named[0]
    tags["clean"]["margin"][:, 1] = -1  # a tag in each: no sign of a weak model
    one("Look at them", trusted=tags, **multi_label)

    numbers = trusted(clean=30)
    rng = np.random.default_rng(0)
    for examples in numbers.values():
        examples["label"] = rng.normal(size=len(examples["label"])).astype(np.float32)
        examples["suggested_label"] = examples["label"]
        examples["margin"] = -rng.random(len(examples["label"]))
    regression = {"config": config(task="regression")}
    assert said(trusted=numbers, **regression) == []
    numbers["calibration"]["margin"][7] = -9
    one("doubts 1 of 130", "calibration 1007", trusted=numbers, **regression)


def test_plain_training_would_have_been_better():
    one("Plain training", "95.0% against 80.0%", result=result(0.8, plain=0.95))
    assert said(result=result(0.9, plain=0.93)) == []  # by chance
    assert said(result=result(0.95, plain=0.8)) == []
    assert said(result=result(0.8)) == []
    one("Stopping at the best step", "step 1,000", result=result(0.6, best=0.9))
    assert said(result=result(0.8, best=0.9)) == []  # the best of many has to be much better
    one("Plain training", result=result(0.6, plain=0.9, best=0.95))
    one("Plain training", result=result(0.5, plain=0.9), trusted=trusted(calibration=20))
    (few,) = said(result=result(0.6, plain=0.8), trusted=trusted(calibration=10))
    assert few.startswith("Only 10 calibration examples")  # and no comparison


@pytest.mark.parametrize("plain, is_said", [(1.0, True), (1.4, False)])
def test_plain_regression(plain, is_said):
    phases = {"last": {"calibration_rmse": 1.5}, "plain": {"calibration_rmse": plain}}
    numbers = trusted()
    for examples in numbers.values():
        examples["margin"] = -np.linspace(0, 1, len(examples["label"]))
    sentences = said(result=phases, config=config(task="regression"), trusted=numbers)
    assert [s.startswith("Plain training") for s in sentences] == [True] * is_said


def test_by_chance_is_rare():
    # Of two equally good models, judged on the same 100 examples, few are called better.
    rng, calls = np.random.default_rng(1), 0
    for _ in range(1000):
        last, plain = rng.binomial(100, 0.85, size=2) / 100
        calls += bool(said(result=result(last, plain=plain)))
    assert calls < 70  # 5% and three standard errors


def test_few_trusted_examples():
    one("Only 8 clean and 12 calibration", trusted=trusted(clean=8, calibration=12))
    one("Only 8 clean examples", "at least 10 clean", trusted=trusted(clean=8))


def test_a_model_that_has_learnt_nothing():
    given = trusted()
    for examples in given.values():
        examples["suggested_label"][:] = 0  # half of the labels are 1
    (sentence,) = said(trusted=given)
    assert "is wrong on 50.0% of the trusted examples, and one class for all would be on 50.0%" in (
        sentence
    )
    given["clean"]["suggested_label"][:4] = given["clean"]["label"][:4]  # two more are right
    assert said(trusted=given) == []


@pytest.mark.parametrize("shift, is_said", [(0.5, True), (0.49, False)])
def test_predictions_that_are_no_better_than_their_mean(shift, is_said):
    given = trusted(clean=20, calibration=0)["clean"]  # labels 0 and 1: a deviation of 0.5
    label = given["label"].astype(float)
    given |= {"label": label, "suggested_label": label + shift, "margin": -np.ones(20)}
    sentences = said(trusted={"clean": given}, config=config(task="regression"))
    assert any("RMSE of 0.5 on" in s and "one of 0.5" in s for s in sentences) == is_said
    given["label"][:] = 5.0  # of one value, no answer is better than it
    sentences = said(trusted={"clean": given}, config=config(task="regression"))
    assert not any("learnt nothing" in s for s in sentences)
