"""Steps without a helpful example, bounds on memory, and tasks that nothing judges."""

import chex
import jax.numpy as jnp
import numpy as np
import pytest
from judged_runs import examples, experiment, first_weights, last_state, states

from reweight_jax import UserError
from reweight_jax.data.examples import Examples
from reweight_jax.history import history_means
from reweight_jax.tasks import TASKS
from reweight_jax.train import loop
from reweight_jax.train.selection import judge_labels
from reweight_jax.train.state import create_train_state

CLOSE = {"rtol": 1e-4, "atol": 1e-5}

# --- Guards and bounds ----------------------------------------------------------------------------


def opposed(size, label):
    """Positive features: the gradients of any two examples of different labels are opposed."""
    x = np.random.default_rng(size).uniform(0.5, 1.5, (size, 4)).astype(np.float32)
    return Examples(x, np.full(size, label, np.int32), None, np.arange(size))


def test_on_zero_weights_uniform_is_a_plain_step_if_no_example_helps():
    splits = opposed(24, 0), opposed(6, 1)
    uniform, keep = (
        list(states(experiment(splits, on_zero_weights=choice))) for choice in ("uniform", "keep")
    )
    plain = last_state(experiment(splits, method="baseline"))
    chex.assert_trees_all_close(uniform[-1][1].params, plain.params, rtol=1e-6)
    np.testing.assert_allclose(uniform[-1][1].history.sums["weight"], 3, rtol=1e-6)
    chex.assert_trees_all_equal(keep[-1][1].params["model"]["w"], first_weights(3))
    assert np.abs(plain.params["model"]["w"] - first_weights(3)).max() > 0.1
    for run, size in ((uniform, 8), (keep, 0)):
        for _, _, metrics in run:
            np.testing.assert_array_equal(metrics["no_helpful"], 1)  # counted all the same
            np.testing.assert_allclose(metrics["effective_sample_size"], size, rtol=1e-6)


def test_on_zero_weights_does_nothing_while_an_example_helps():
    splits = examples("classification", 24, 0, wrong=0.3), examples("classification", 6, 1)
    uniform, keep = (
        last_state(experiment(splits, on_zero_weights=choice)) for choice in ("uniform", "keep")
    )
    chex.assert_trees_all_equal(uniform, keep)


@pytest.mark.parametrize(("megabytes", "is_kept"), [(0, False), (2, False), (3, True), (256, True)])
def test_beliefs_are_remembered_within_a_bound(megabytes, is_kept):
    """100,000 examples of three classes take 1.14 MiB, twice."""
    train = examples("classification", 100_000, 0)
    made = experiment((train, None, examples("classification", 6, 2)), method="baseline",
                      num_steps=1, remember_megabytes=megabytes)  # fmt: skip
    names = {"weight", "margin"} | ({"log_probability"} if is_kept else set())
    assert set(made.remembered) == names
    state = create_train_state(made)
    assert set(state.history.sums) == names
    assert set(state.calibration.sums) == names - {"weight"}


def test_without_beliefs_no_label_is_suggested():
    splits = examples("classification", 24, 0, wrong=0.4), None
    suggested = []
    for megabytes in (0, 1):
        made = experiment(splits, method="baseline", remember_megabytes=megabytes)
        state = last_state(made)
        suggested.append(judge_labels(made, state).suggested_label)
    margin, label = history_means(state.history)["margin"], splits[0].label
    assert (margin < 0).any()
    np.testing.assert_array_equal(suggested[0], np.where(margin < 0, -1, label))
    assert suggested[1].min() >= 0 and (suggested[1] != label).any()


# --- A task of one's own --------------------------------------------------------------------------


@pytest.fixture
def own_task(monkeypatch):
    """Quantile regression at 0.9, as "quantile" in the table of tasks."""

    def make(labels, num_outputs):
        def loss(outputs, labels):
            residual = labels - outputs
            return jnp.maximum(0.9 * residual, -0.1 * residual).sum(1)

        def scores(outputs, labels):
            return {"rmse": 0.0, "loss": float(np.mean(loss(outputs, labels)))}

        task = TASKS["regression"](labels, num_outputs)
        functions = {"loss": loss, "margin": lambda *pair: -loss(*pair), "scores": scores}
        return task._replace(name="quantile", remembered={}, **functions)

    monkeypatch.setitem(TASKS, "quantile", make)


def test_a_task_of_ones_own_is_not_judged(own_task, tmp_path):
    splits = [examples("regression", size, size) for size in (24, 6, 7)]
    splits = [part._replace(label=part.label - 50) for part in splits]
    made = experiment(splits, "quantile", compare_plain=True)
    result = loop.train(made, tmp_path, progress=False, draw=False)
    assert "labels" not in result and result["health"] == []
    assert result["plain"]["step"] == 18 and np.isfinite(result["plain"]["clean_loss"])
    files = {path.name for path in tmp_path.iterdir()}
    assert not files & {"suspects.csv", "label_report.html", "suspect_inputs.npz"}
    # Its margins are remembered all the same: minus the loss here, of three and two visits.
    for name, size in (("examples", 24), ("calibration", 7)):
        with np.load(tmp_path / f"{name}.npz") as arrays:
            assert arrays["margin"].shape == (size,) and (arrays["margin"] < 0).all()
            assert abs(arrays["visits"] - 3).max() <= 1
            assert "prediction" not in arrays


def test_a_task_of_ones_own_does_not_settle_and_is_not_retrained(own_task):
    splits = [examples("regression", size, size) for size in (24, 6)]
    made = experiment(splits, "quantile", settle_at=0.5)
    assert [phase.name for phase in made.phases()] == ["last"]
    with pytest.raises(UserError, match="config.retrain: drop; not for the task quantile"):
        experiment(splits, "quantile", retrain="drop")
