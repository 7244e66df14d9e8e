"""What is remembered of each example, against sums and means by hand."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reweight_jax import add_visits, alignment, empty_history, history_means, normalize_weights


def add(history, rows, weights, gradient):
    values = {"weight": jnp.array(weights), "alignment": alignment(jnp.array(gradient))}
    return add_visits(history, jnp.array(rows), values)


def test_means_over_visits():
    history = empty_history(4, {"weight": (), "alignment": ()})
    history = add(history, [2, 0], [0.75, 0.25], [-3.0, -1.0])
    # In units of the batch's mean absolute gradient, 2, and then 4.
    history = add(history, [2, 1], [0.0, 1.0], [6.0, -2.0])
    history = add(history, [1, 2], [0.0, 0.0], [1.0, 1.0])
    means = history_means(history)
    np.testing.assert_array_equal(means["visits"], [1, 2, 3, 0])
    np.testing.assert_allclose(means["weight"], [0.25, 0.5, 0.25, np.nan], rtol=1e-6)
    expected = [0.5, (0.5 - 1) / 2, (1.5 - 1.5 - 1) / 3, np.nan]
    np.testing.assert_allclose(means["alignment"], expected, rtol=1e-6)


def test_an_example_that_a_batch_holds_thrice_has_three_visits():
    """Against a loop in numpy, with arrays [N, K] beside numbers, inside jit."""
    rng = np.random.default_rng(0)
    rows, weight = rng.integers(0, 5, (3, 12)), rng.normal(size=(3, 12)).astype(np.float32)
    logits = rng.normal(size=(3, 12, 4)).astype(np.float32)
    assert max(np.bincount(rows[0])) >= 3
    history = empty_history(5, {"weight": (), "logits": (4,)})
    step = jax.jit(lambda h, r, w, z: add_visits(h, r, {"weight": w, "logits": z}))
    sums = {"weight": np.zeros(5), "logits": np.zeros((5, 4))}
    for t in range(3):
        history = step(history, rows[t], weight[t], logits[t])
        for i, row in enumerate(rows[t]):
            sums["weight"][row] += weight[t, i]
            sums["logits"][row] += logits[t, i]
    np.testing.assert_array_equal(history.visits, np.bincount(rows.ravel(), minlength=5))
    chex.assert_trees_all_close(history.sums, sums, rtol=1e-5)
    mean = history_means(history)["logits"]
    np.testing.assert_allclose(mean, sums["logits"] / np.bincount(rows.ravel())[:, None], rtol=1e-5)


def test_of_what_was_never_seen_every_number_is_missing():
    """Numbers, and vectors of three, of which one example has two visits and one none."""
    history = empty_history(3, {"margin": (), "log_probability": (3,)})
    rng = np.random.default_rng(0)
    margin, beliefs = rng.normal(size=(2, 2)), rng.normal(size=(2, 2, 3))
    for rows, m, b in zip([[0, 2], [2, 2]], margin, beliefs, strict=True):
        history = add_visits(history, jnp.array(rows), {"margin": m, "log_probability": b})
    means = history_means(history)
    assert means.keys() == {"visits", "margin", "log_probability"}
    np.testing.assert_array_equal(means["visits"], [1, 0, 3])
    assert np.isnan(means["margin"][1]) and np.isnan(means["log_probability"][1]).all()
    expected = (margin[0, 1] + margin[1].sum()) / 3
    np.testing.assert_allclose(means["margin"][[0, 2]], [margin[0, 0], expected], rtol=1e-5)
    expected = np.stack([beliefs[0, 0], (beliefs[0, 1] + beliefs[1].sum(axis=0)) / 3])
    np.testing.assert_allclose(means["log_probability"][[0, 2]], expected, rtol=1e-5)


def test_values_of_half_precision_are_summed_in_full():
    history = empty_history(1, {"margin": ()})
    add = jax.jit(lambda h: add_visits(h, jnp.array([0]), {"margin": jnp.bfloat16([0.5])}))
    for _ in range(600):  # bfloat16 counts to 128 in steps of a half
        history = add(history)
    assert history.sums["margin"].dtype == jnp.float32
    np.testing.assert_array_equal(history_means(history)["margin"], [0.5])


def test_equal_weights_have_equal_means_whatever_the_visits():
    history = empty_history(61, {"weight": ()})
    for other in range(1, 61):
        history = add_visits(history, jnp.array([0, other]), {"weight": 3 * jnp.full(2, 1 / 3)})
    assert history.visits[0] == 60
    np.testing.assert_array_equal(history_means(history)["weight"], np.ones(61))


def test_alignment_of_batches_without_a_gradient_or_with_bad_losses():
    np.testing.assert_array_equal(alignment(jnp.zeros(2)), [0, 0])
    # The mean absolute value is over the finite ones: (2 + 4) / 2.
    got = alignment(jnp.array([jnp.nan, -2.0, 4.0, jnp.inf]))
    np.testing.assert_allclose(got, [0, 2 / 3, -4 / 3, 0], rtol=1e-6)


def test_sums_of_half_precision_do_not_overflow():
    gradient = jnp.full(100, -1000, jnp.float16)
    weights = normalize_weights(gradient)
    assert weights.dtype == jnp.float16
    np.testing.assert_allclose(weights, 0.01, rtol=1e-3)
    np.testing.assert_allclose(alignment(gradient), 1, rtol=1e-3)


def test_padding_is_no_visit_and_every_row_has_its_value():
    history = empty_history(3, {"a": ()})
    history = add_visits(history, [0, 3, 2, 3], {"a": jnp.array([1.0, 9.0, 2.0, 9.0])})
    np.testing.assert_array_equal(history.visits, [1, 0, 1])
    np.testing.assert_array_equal(history.sums["a"], [1, 0, 2])
    with pytest.raises(ValueError, match=r"a: \(1,\) values for \(2,\) rows"):
        add_visits(history, [0, 1], {"a": jnp.ones(1)})


def test_alignment_has_the_scale_of_all_devices():
    gradient = jnp.array([4.0, -1.0, jnp.nan, -3.0, 0.5, 0.5, 2.0, -9.0])
    on_four = jax.pmap(lambda part: alignment(part, axis_name="d"), axis_name="d")
    got = on_four(gradient.reshape(4, 2)).ravel()
    chex.assert_trees_all_close(got, alignment(gradient), rtol=1e-6)
