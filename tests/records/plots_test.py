"""What the plots of a run show."""

import numpy as np

from reweight_jax.records import plots


def test_a_curve_is_not_joined_from_one_phase_to_the_next():
    def record(step, kind):
        scores = {"error": 0.1 * step, "loss": 1.0 * step}
        return {"step": step, "kind": kind, "plain_loss": 2.0 * step, "test": scores} | scores

    records = [record(step, kind) for step in (2, 4, 6, 8) for kind in ("train", "eval")]
    figure = plots.training_curve(records, [("settled", 4), ("retrained", 6)])
    error, loss = figure.axes
    for axes, names in ((error, ["training batches", "test"]), (loss, ["training, mean"])):
        for name in names:
            (line,) = [line for line in axes.lines if line.get_label() == name]
            np.testing.assert_array_equal(line.get_xdata(), [2, 4, np.nan, 6, np.nan, 8])
        assert [text.get_text() for text in axes.texts] == ["settled", "retrained"]
        assert [text.get_position()[0] for text in axes.texts] == [4, 6]
    np.testing.assert_allclose(
        error.lines[1].get_ydata(), [0.2, 0.4, np.nan, 0.6, np.nan, 0.8], rtol=1e-6
    )
    plain = plots.training_curve(records, []).axes[0].lines[0]
    np.testing.assert_array_equal(plain.get_xdata(), [2, 4, 6, 8])


def test_names_of_classes_are_text_and_no_formula():
    """Between two dollars matplotlib would parse TeX, and raise."""
    scores = {"error": 0.1, "loss": 1.0}
    records = [{"step": 1, "kind": "train", "plain_loss": 2.0} | scores]
    records += [{"step": 1, "kind": "eval", "test": scores}]
    result = {"confusion": {"last": {"test": [[1, 0], [0, 1]]}}}
    labels, classes = np.array([0, 1]), ["$25%-$50%", r"$\a_$"]
    drawn = plots.draw_run(records, result, np.ones(2), None, labels, classes, [])
    assert drawn.keys() == {"training_curve", "weights", "confusion"}
