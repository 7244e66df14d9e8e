"""scripts/benchmarks/trusted_size.py: its settings, one training, and its table."""

import json

import jax
import labels_data
import labels_fits
import numpy as np
import pytest

from reweight_jax.train import devices


@pytest.fixture(scope="module")
def script(load_script):
    return load_script("benchmarks/trusted_size")


def test_half_calibrates_from_forty_on(script):
    sizes = [script.setting_of("mnist", size) for size in (10, 39, 40, 101)]
    assert [(s.num_clean, s.num_calibration) for s in sizes] == [
        (10, 0),
        (39, 0),
        (20, 20),
        (51, 50),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("calibration", [0, 20])
def test_a_training_is_judged_with_and_without_calibration(script, calibration, monkeypatch):
    # Four devices take longer to compile, and are not the subject.
    monkeypatch.setattr(devices, "all_devices", lambda: jax.devices()[:1])
    tiny = labels_data.Setting("digits", "mlp", 300, 20, calibration, 60, (32,), 0.1)
    cell = script.train(tiny, "uniform", 0, {})
    assert set(cell) == set(script.LINES)
    # A random list would have a precision of 0.4.
    assert cell["settled"]["precision_at_n"] > 0.5, cell
    assert ("false_alarms_5" in cell["settled"]) == (calibration > 0)


def test_the_table_has_means_and_intervals_of_what_is_finished(script, tmp_path):
    for seed, value in enumerate((0.8, 0.9)):
        ours = {"precision_at_n": value, "test_accuracy": 0.5}
        other = {"precision_at_n": 0.25, "test_accuracy": value}
        path = tmp_path / "mnist-background-10" / f"seed{seed}.json"
        path.parent.mkdir(exist_ok=True)
        setting = labels_fits.fields_of(script.setting_of("mnist", 10))
        cell = {"settled": ours, "plain, fine-tuned": other}
        path.write_text(json.dumps({"setting": setting, "cell": cell}))
    # Neither a part of another warm-up nor one that is damaged is in the table.
    path.with_name("seed2.json").write_text(
        json.dumps({"setting": setting | {"warm_up": 9.0}, "cell": cell})
    )
    path.with_name("seed3.json").write_text('{"setting": ')
    first, second = script.rows_of(tmp_path, [10, 100])
    assert (first["method"], first["trusted"], first["seeds"]) == ("settled", 10, 2)
    # Student's t with one degree of freedom: 12.706 * 0.05.
    np.testing.assert_allclose(first["precision_at_n"], 0.85)
    np.testing.assert_allclose(first["precision_at_n_ci95"], 0.6353, atol=1e-4)
    assert np.isnan(first["recall_5"]) and second["test_accuracy"] == pytest.approx(0.85)
    row = script.to_markdown([first]).splitlines()[2]
    assert row == "| mnist | background | 10 | settled | 2 | 0.850 ± 0.635 |  |  | 0.500 ± 0.000 |"
