"""Wrong labels and long tails: exact counts, the classes they go to, the splits that get them."""

import numpy as np
import pytest

from configs import default
from reweight_jax.data import corrupt, sources
from reweight_jax.data.splits import load
from reweight_jax.errors import UserError

NUM_TRAIN = 1198 - 100 - 10  # of the digits: hyper_val and clean taken off


def digits_data(**fields):
    config = default.get_config()
    config.data.update({"name": "digits", "num_hyper_val": 100} | fields)
    return config


def flip(noise, labels, ratio, seed=0, num_classes=10, background=3):
    rng = np.random.default_rng(seed)
    if noise == "uniform_flip":
        return corrupt.uniform_flip(labels, ratio, num_classes, rng)
    return corrupt.background_flip(labels, ratio, background, rng)


def wrong(examples):
    return int(np.sum(examples.label != examples.true_label))


def present(splits):
    return [part for part in splits if part is not None]


def write_npz(path, counts):
    """Writes counts[k] images of class k, one pixel each, as training and as test part."""
    label = np.repeat(np.arange(len(counts)), counts)
    image = np.zeros((len(label), 1, 1), np.uint8)
    np.savez(path, train_image=image, train_label=label, test_image=image, test_label=label)
    return {"name": "npz", "path": str(path), "labels_are_right": True}


# --- flips ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ratio, size, expected",
    [
        (0.0, 100, 0),
        (1.0, 100, 100),
        (0.4, 7, 2),  # 2.8
        (0.4, 2, 0),
        (0.29, 100, 29),  # 28.999999999999996 in floating point
        (0.57, 100, 57),  # 56.99999999999999
        (0.4, 45_000, 18_000),
        (0.5, 0, 0),
    ],
)
@pytest.mark.parametrize("noise", ["uniform_flip", "background_flip"])
def test_the_number_of_wrong_labels_is_exact(noise, ratio, size, expected):
    labels = np.resize([0, 1, 2, 4, 5, 6, 7, 8, 9], size)  # class 3, the background, is empty
    flipped = flip(noise, labels, ratio)
    assert np.sum(flipped != labels) == expected
    assert flipped.shape == labels.shape and flipped.dtype == labels.dtype
    np.testing.assert_array_equal(labels, np.resize([0, 1, 2, 4, 5, 6, 7, 8, 9], size))


@pytest.mark.parametrize("noise", ["uniform_flip", "background_flip"])
def test_every_percentage_of_every_size_is_exact(noise):
    """Against integer arithmetic: floor(p N / 100)."""
    for size in (1, 3, 10, 99, 100, 250, 1088):
        labels = np.zeros(size, np.int32)
        counts = [np.sum(flip(noise, labels, percent / 100) != 0) for percent in range(101)]
        assert counts == [percent * size // 100 for percent in range(101)]


def chi_square(counts):
    expected = counts.sum() / len(counts)
    return np.sum((counts - expected) ** 2) / expected


def test_uniform_flip_reaches_every_other_class_alike():
    labels = np.resize(np.arange(10), 60_000)
    flipped = flip("uniform_flip", labels, 0.6)
    changed = flipped != labels
    assert changed.sum() == 36_000
    for true_label in range(10):
        reached = np.bincount(flipped[changed & (labels == true_label)], minlength=10)
        assert reached[true_label] == 0
        # 3,600 of each class or so, over nine others: 8 degrees of freedom, of which 99.99% of
        # draws are below 31.8.
        assert 3_400 < reached.sum() < 3_800
        assert chi_square(np.delete(reached, true_label)) < 31.8


def test_uniform_flip_of_two_classes_goes_to_the_other():
    labels = np.resize([0, 1], 100)
    flipped = flip("uniform_flip", labels, 1.0, num_classes=2)
    np.testing.assert_array_equal(flipped, 1 - labels)


def test_background_flip_takes_from_the_other_classes_alike():
    labels = np.resize(np.arange(10), 30_000)
    flipped = flip("background_flip", labels, 0.4)
    changed = flipped != labels
    np.testing.assert_array_equal(flipped[changed], np.full(12_000, 3))
    assert np.sum(flipped == 3) == 3_000 + 12_000  # its own are left, and do not count
    # Drawn without replacement from 27,000, the spread is below that of chi-square: 31.8 is ample.
    assert chi_square(np.delete(np.bincount(labels[changed], minlength=10), 3)) < 31.8


def test_background_flip_takes_all_there_are():
    labels = np.array([3] * 80 + [0] * 15 + [7] * 5)
    np.testing.assert_array_equal(flip("background_flip", labels, 0.2), np.full(100, 3))
    np.testing.assert_array_equal(flip("background_flip", labels, 0.9), np.full(100, 3))
    assert np.sum(flip("background_flip", labels, 0.19) != 3) == 1


@pytest.mark.parametrize("noise", ["uniform_flip", "background_flip"])
def test_flips_are_the_generators(noise):
    labels = np.resize(np.arange(10), 500)
    first, again, other = (flip(noise, labels, 0.4, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.any((first != labels) != (other != labels))


# --- splits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", ["uniform_flip", "background_flip"])
@pytest.mark.parametrize("ratio, in_train, in_hyper_val", [(0.4, 435, 40), (0.29, 315, 29)])
def test_train_and_hyper_val_are_noisy_and_nothing_else(noise, ratio, in_train, in_hyper_val):
    # 0.4 * 1088 = 435.2 and 0.29 * 1088 = 315.52.
    splits = load(digits_data(noise=noise, noise_ratio=ratio, background_class=5), 0).splits
    assert len(splits.train.label) == NUM_TRAIN
    assert wrong(splits.train) == in_train
    assert wrong(splits.hyper_val) == in_hyper_val
    assert wrong(splits.clean) == wrong(splits.test) == 0
    parts = sources.digits(None)
    for name in ("train", "clean", "hyper_val", "test"):
        part, source = getattr(splits, name), parts["test" if name == "test" else "train"]
        np.testing.assert_array_equal(part.true_label, source.label[part.index])
        np.testing.assert_array_equal(part.inputs, source.inputs[part.index])
        assert part.label.dtype == part.true_label.dtype == np.int32
        assert not np.shares_memory(part.label, part.true_label)
    if noise == "background_flip":
        for part in (splits.train, splits.hyper_val):
            changed = part.label != part.true_label
            assert set(part.label[changed]) == {5}
    else:
        assert set(splits.train.label) == set(range(10))


@pytest.mark.parametrize("noise", ["uniform_flip", "background_flip"])
def test_the_seed_draws_the_noise(noise):
    config = digits_data(noise=noise, noise_ratio=0.4, background_class=5)
    first, again, other = (load(config, seed).splits for seed in (1, 1, 2))
    for part, repeated in zip(present(first), present(again), strict=True):
        np.testing.assert_array_equal(part.label, repeated.label)
        np.testing.assert_array_equal(part.index, repeated.index)

    def wrong_rows(splits):
        changed = splits.train.label != splits.train.true_label
        return set(splits.train.index[changed].tolist())

    # A row is wrong in both with a chance of (435 / 1198)^2: in about 158 of 1,198.
    both = wrong_rows(first) & wrong_rows(other)
    assert len(wrong_rows(first)) == len(wrong_rows(other)) == 435
    assert 110 < len(both) < 210


def test_noise_leaves_the_splits_as_they_are():
    plain = load(digits_data(), 4).splits
    for noise in ("uniform_flip", "background_flip"):
        noisy = load(digits_data(noise=noise, noise_ratio=0.4), 4).splits
        for part, noisy_part in zip(present(plain), present(noisy), strict=True):
            np.testing.assert_array_equal(part.index, noisy_part.index)
            np.testing.assert_array_equal(part.true_label, noisy_part.true_label)
    assert wrong(plain.train) == 0


def background_of(config, seed):
    train = load(config, seed).splits.train
    (background,) = set(train.label[train.label != train.true_label].tolist())
    return background


def test_the_background_class_is_the_papers_for_the_trial(tmp_path):
    """Section 4.2: [0, 1, 3, 5, 7] on CIFAR-10 and [7, 12, 41, 62, 85] on CIFAR-100."""
    fields = {"noise": "background_flip", "noise_ratio": 0.4}
    config = digits_data(**fields)
    assert [background_of(config, seed) for seed in range(6)] == [0, 1, 3, 5, 7, 0]
    hundred = write_npz(tmp_path / "hundred.npz", [6] * 100)
    config = digits_data(**hundred, **fields, num_clean=100)
    assert [background_of(config, seed) for seed in range(5)] == [7, 12, 41, 62, 85]
    config.data.background_class = 99
    assert background_of(config, 2) == 99


def test_the_background_class_of_a_config_is_renumbered_as_labels_are():
    config = digits_data(
        noise="background_flip", noise_ratio=0.4, classes=(7, 2, 5), num_clean=6, background_class=0
    )
    train = load(config, 3).splits.train
    changed = train.label != train.true_label
    assert set(train.label[changed]) == {0}
    assert set(train.true_label[changed]) == {1, 2}
    # Label 0 is digit 7.
    digit = sources.digits(None)["train"].label[train.index]
    np.testing.assert_array_equal(np.array([7, 2, 5])[train.true_label], digit)


@pytest.mark.parametrize(
    "fields, message",
    [
        (
            {"noise": "salt"},
            "config.data.noise: unknown name 'salt'; valid: asymmetric_flip, backgr",
        ),
        (
            {"noise": "uniform_flip", "noise_ratio": 1.1},
            "config.data.noise_ratio: ratio 1.1 must be in",
        ),
        (
            {"noise": "uniform_flip", "noise_ratio": -0.1},
            "config.data.noise_ratio: ratio -0.1 must",
        ),
        (
            {"noise": "background_flip", "noise_ratio": float("nan")},
            r"config.data.noise_ratio: ratio nan must be in 0..1",
        ),
        (
            {"noise": "background_flip", "noise_ratio": 0.4, "background_class": 10},
            "config.data.background_class: 10; must be in 0..9, or -1",
        ),
        (
            {"noise": "background_flip", "noise_ratio": 0.4, "background_class": -2},
            "config.data.background_class: -2; must be in 0..9, or -1",
        ),
        (
            # The paper has no background class for three classes.
            {"noise": "background_flip", "noise_ratio": 0.4, "classes": (1, 2, 3), "num_clean": 3},
            r"config.data.background_class: -1; must be in 0..2$",
        ),
        ({"imbalance_factor": 0.5}, "config.data.imbalance_factor: factor 0.5 must be at least 1"),
        ({"imbalance_factor": -3.0}, "config.data.imbalance_factor: factor -3 must be at least 1"),
        (
            {"imbalance_factor": float("inf")},
            "config.data.imbalance_factor: factor inf must be at least 1",
        ),
        (
            {"imbalance_factor": float("nan")},
            "config.data.imbalance_factor: factor nan must be at least 1",
        ),
        (
            {"imbalance_factor": 10.0, "imbalance_ratio": 2.0, "num_train": 50},
            "config.data.imbalance_factor and imbalance_ratio: set one of the two",
        ),
    ],
)
def test_impossible_fields_are_named(fields, message):
    with pytest.raises(UserError, match=f"^{message}") as error:
        load(digits_data(**fields), 0)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("call", [corrupt.uniform_flip, corrupt.background_flip])
def test_pure_functions_speak_of_no_config(call):
    with pytest.raises(ValueError, match=r"^ratio 2 must be in 0..1$"):
        call(np.zeros(4, int), 2.0, 3, np.random.default_rng(0))


def test_imbalanced_counts_are_the_papers():
    # 5,000 at 200:1: 5000 / 201 = 24.9 fours.
    np.testing.assert_array_equal(corrupt.imbalanced_counts(2, 1, 5000, 200), [25, 4975])
    np.testing.assert_array_equal(corrupt.imbalanced_counts(2, 0, 5000, 1), [2500, 2500])
    # Four classes, the third ten times each other: 130 = 10 + 10 + 100 + 10.
    np.testing.assert_array_equal(corrupt.imbalanced_counts(4, 2, 130, 10), [10, 10, 100, 10])
    # 17 / 11 rounds to 2, which would leave the dominant class -1.
    np.testing.assert_array_equal(corrupt.imbalanced_counts(10, 0, 17, 2), [8] + [1] * 9)
    with pytest.raises(ValueError, match="^ratio 0.5 must be at least 1$"):
        corrupt.imbalanced_counts(2, 1, 100, 0.5)
    with pytest.raises(ValueError, match="ratio 1000 leaves some classes none of 100 examples"):
        corrupt.imbalanced_counts(2, 1, 100, 1000)


def test_proportional_counts_round_by_the_largest_remainder():
    labels = np.repeat([0, 1, 3], [50, 30, 20])
    # Of 7: 3.5, 2.1, 0 and 1.4.
    np.testing.assert_array_equal(corrupt.proportional_counts(labels, 4, 7), [4, 2, 0, 1])
    np.testing.assert_array_equal(corrupt.proportional_counts(labels, 4, 100), [50, 30, 0, 20])


def test_draws_per_class_are_exact_and_uniform():
    labels = np.repeat([0, 1, 2], [10, 20, 30])
    seen = np.zeros(60)
    for seed in range(400):
        rows = corrupt.draw_per_class(labels, [1, 5, 0], np.random.default_rng(seed))
        np.testing.assert_array_equal(np.bincount(labels[rows], minlength=3), [1, 5, 0])
        assert (np.diff(rows) > 0).all()
        seen[rows] += 1
    # Rows of class 0 are drawn 40 times of 400, those of class 1 100 times: within five deviations.
    assert abs(seen[:10] - 40).max() < 30 and abs(seen[10:30] - 100).max() < 44
    with pytest.raises(ValueError, match="^needs 11 examples of class 0, which has 10$"):
        corrupt.draw_per_class(labels, [11, 0, 0], np.random.default_rng(0))


def test_even_shares():
    rng = np.random.default_rng(0)
    available = np.array([5, 50, 0, 50, 11])
    # 5 of the small class, and 31 of the others: 10 or 11 each.
    shares = np.array([corrupt.even_shares(available, 36, rng) for _ in range(50)])
    np.testing.assert_array_equal(np.sort(shares, axis=1), np.tile([0, 5, 10, 10, 11], (50, 1)))
    assert (np.ptp(shares[:, [1, 3, 4]], axis=0) == 1).all()  # chance says which gets one more
    np.testing.assert_array_equal(corrupt.even_shares(available, 116, rng), available)
    np.testing.assert_array_equal(corrupt.even_shares(available, 86, rng), [5, 35, 0, 35, 11])
    assert corrupt.even_shares(available, 2, rng).sum() == 2
    with pytest.raises(ValueError, match="^117 examples wanted, of 116$"):
        corrupt.even_shares(available, 117, rng)


# --- asymmetric flips -----------------------------------------------------------------------------

CIFAR10 = "airplane automobile bird cat deer dog frog horse ship truck".split()


def confusion(label, true_label, num_classes=10):
    counts = np.zeros((num_classes, num_classes), int)
    np.add.at(counts, (true_label, label), 1)
    return counts


@pytest.mark.parametrize(
    "name, classes, expected",
    [
        # truck -> automobile, bird -> airplane, deer -> horse, cat <-> dog
        ("cifar10", tuple(range(10)), {9: 1, 2: 0, 4: 7, 3: 5, 5: 3}),
        ("arrays", tuple(CIFAR10), {9: 1, 2: 0, 4: 7, 3: 5, 5: 3}),
        ("npz", tuple(name.title() for name in CIFAR10[::-1]), {0: 8, 7: 9, 5: 2, 6: 4, 4: 6}),
        ("cifar10", (5, 9, 3, 0), {2: 0, 0: 2}),
        ("mnist", tuple(range(10)), {2: 7, 3: 8, 7: 1, 5: 6, 6: 5}),
        ("mnist", (7, 2, 6), {1: 0}),
        ("digits", tuple(range(10)), {k: (k + 1) % 10 for k in range(10)}),
        ("csv", ("cat", "dog", "yes"), {0: 1, 1: 2, 2: 0}),
        ("npz", (False, True), {0: 1, 1: 0}),
    ],
)
def test_asymmetric_targets(name, classes, expected):
    assert corrupt.asymmetric_targets(name, classes) == expected


def test_asymmetric_flips_are_exact_in_every_source_class():
    counts = [100, 7, 50, 29, 0, 10, 1, 5, 3, 2]
    labels = np.random.default_rng(5).permutation(np.repeat(np.arange(10), counts))
    targets = {2: 7, 3: 8, 7: 1, 5: 6, 6: 5, 4: 0}
    flipped = corrupt.asymmetric_flip(labels, 0.4, targets, np.random.default_rng(0))
    expected = np.diag(counts)
    for source, target in targets.items():
        moved = 2 * counts[source] // 5
        expected[source, source] -= moved
        expected[source, target] += moved
    # Class 7 gives away 2 of its own 5, not of those that came from class 2.
    np.testing.assert_array_equal(confusion(flipped, labels), expected)
    assert flipped.dtype == labels.dtype and not np.shares_memory(flipped, labels)


def test_asymmetric_flips_choose_rows_alike_and_by_the_generator():
    labels = np.zeros(50, int)
    draws = np.array(
        [corrupt.asymmetric_flip(labels, 0.4, {0: 1}, np.random.default_rng(s)) for s in range(400)]
    )
    assert (draws.sum(axis=1) == 20).all()
    # Each row is moved in 160 of 400 draws, within five standard deviations of 9.8.
    assert abs(draws.sum(axis=0) - 160).max() < 50
    again = corrupt.asymmetric_flip(labels, 0.4, {0: 1}, np.random.default_rng(3))
    np.testing.assert_array_equal(draws[3], again)
    with pytest.raises(ValueError, match=r"^ratio 2 must be in 0..1$"):
        corrupt.asymmetric_flip(labels, 2.0, {0: 1}, np.random.default_rng(0))


def test_asymmetric_noise_of_a_split(tmp_path):
    config = digits_data(noise="asymmetric_flip", noise_ratio=0.4)
    first, again, other = (load(config, seed).splits for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.train.label, again.train.label)
    assert np.any(first.train.label != other.train.label)
    assert wrong(first.clean) == wrong(first.test) == 0
    for part in (first.train, first.hyper_val):
        found = confusion(part.label, part.true_label)
        size = np.bincount(part.true_label, minlength=10)
        np.testing.assert_array_equal(np.diag(np.roll(found, -1, axis=1)), 2 * size // 5)
        assert np.diag(found).sum() + (2 * size // 5).sum() == part.size
    plain = load(digits_data(), 1).splits
    np.testing.assert_array_equal(first.train.index, plain.train.index)
    # CIFAR-10 by the names of its classes: half of them are hit, 20% of all labels at 0.4.
    label = np.repeat(CIFAR10, 50)
    path = tmp_path / "cifar.npz"
    np.savez(path, train_input=np.zeros((500, 1)), train_label=label)
    fields = {"name": "npz", "path": str(path), "num_hyper_val": 0, "num_clean": 0}
    train = load(digits_data(noise="asymmetric_flip", noise_ratio=0.4, **fields), 0).splits.train
    changed = train.label != train.true_label
    moved = {(CIFAR10[a], CIFAR10[b]) for a, b in zip(train.true_label, train.label, strict=True)}
    assert changed.sum() == 100 and {pair for pair in moved if pair[0] != pair[1]} == {
        *(("truck", "automobile"), ("bird", "airplane"), ("deer", "horse")),
        *(("cat", "dog"), ("dog", "cat")),
    }


def test_asymmetric_noise_without_a_pair():
    with pytest.raises(ValueError, match=r"no pair is among the classes \[0, 1, 4\]; pairs: 2 -> "):
        corrupt.asymmetric_targets("mnist", (0, 1, 4))
    config = digits_data(noise="none", noise_ratio=0.4)
    message = "noise is none; choose uniform_flip, background_flip or asymmetric_flip$"
    with pytest.raises(UserError, match=message):
        load(config, 0)


# --- long tails -----------------------------------------------------------------------------------


def test_long_tailed_counts_by_hand():
    # Factor 100 over five classes: each has 100^(1/4) = 3.1623 times as many as the next.
    np.testing.assert_array_equal(
        corrupt.long_tailed_counts(np.full(5, 5000), 100.0), [5000, 1581, 500, 158, 50]
    )
    # CIFAR-10-LT at 100: 5000 * 100^(-k / 9). Cui et al. cut where this rounds: 1796 and 645.
    np.testing.assert_array_equal(
        corrupt.long_tailed_counts(np.full(10, 5000), 100.0),
        [5000, 2997, 1797, 1077, 646, 387, 232, 139, 83, 50],
    )
    np.testing.assert_array_equal(corrupt.long_tailed_counts(np.array([7, 0, 4]), 1.0), [7, 0, 4])
    # Shares 1, 0.1 and 0.01: at least one is kept, but none made up.
    np.testing.assert_array_equal(
        corrupt.long_tailed_counts(np.array([30, 0, 30]), 100.0), [30, 0, 1]
    )


@pytest.mark.parametrize("noise", ["none", "uniform_flip", "background_flip"])
def test_a_long_tail_is_of_the_true_labels(tmp_path, noise):
    # 200 of each of five classes at 16:1, each half of the one before: 200, 100, 50, 25, 12.5 -> 12
    # (rounded to even). In all 387: 40 for hyper_val, 5 clean, 342 to train on.
    config = digits_data(
        **write_npz(tmp_path / "five.npz", [200] * 5),
        num_clean=5,
        imbalance_factor=16.0,
        noise=noise,
        noise_ratio=0.0 if noise == "none" else 0.4,
        background_class=2,
    )
    config.data.num_hyper_val = 40
    splits = load(config, 0).splits
    # Of 40: 20.67, 10.34, 5.17, 2.58 and 1.24; the two largest remainders are rounded up.
    np.testing.assert_array_equal(np.bincount(splits.hyper_val.true_label), [21, 10, 5, 3, 1])
    np.testing.assert_array_equal(np.bincount(splits.clean.true_label), [1] * 5)
    np.testing.assert_array_equal(
        np.bincount(splits.train.true_label), [200 - 22, 100 - 11, 50 - 6, 25 - 4, 12 - 2]
    )
    # 0.4 * 342 = 136.8 and 0.4 * 40.
    assert wrong(splits.train) == (0 if noise == "none" else 136)
    assert wrong(splits.hyper_val) == (0 if noise == "none" else 16)
    assert wrong(splits.clean) == 0
    np.testing.assert_array_equal(np.bincount(splits.test.label), [200] * 5)
    if noise == "background_flip":
        assert np.bincount(splits.train.label)[2] == 44 + 136
    used = np.concatenate([part.index for part in present(splits[:4])])
    assert len(set(used.tolist())) == 387


def test_a_long_tail_of_digits():
    # Of 119, 126, ... training digits, the shares 9^(-k / 9) are 1, 0.783, 0.614, 0.481, 0.377,
    # 0.295, 0.231, 0.181, 0.142 and 1/9.
    expected = [119, 99, 77, 59, 44, 36, 26, 21, 17, 13]
    splits = load(
        digits_data(imbalance_factor=9.0, noise="uniform_flip", noise_ratio=0.3), 5
    ).splits
    kept = np.concatenate([part.true_label for part in present(splits[:4])])
    np.testing.assert_array_equal(np.bincount(kept), expected)
    assert sum(expected) - 110 == 401 and wrong(splits.train) == 120  # 0.3 * 401 = 120.3
    assert wrong(splits.hyper_val) == 30
