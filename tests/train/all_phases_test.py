"""Whole runs of all phases: their results and files, stopped anywhere, on four devices."""

import chex
import jax
import numpy as np
import pytest
from judged_runs import SmallNet, examples, images, npz, run
from whole_runs import ONE_DEVICE, records, saved, without_times

from reweight_jax.records import result as results
from reweight_jax.records.metrics import read_metrics
from reweight_jax.sealed import read_sealed
from reweight_jax.train import loop, selection


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(1.0, id="settles"),
        pytest.param(-1.0, id="judge", marks=pytest.mark.slow),
    ],
)
def finished(request, tmp_path_factory):
    """(splits, fields, workdir, result) of a run of all phases, with BatchNorm and dropout.

    In a few steps every model still learns fast, and would not settle.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selection, "LEARNS_FAST", request.param)
        yield whole_run(tmp_path_factory.mktemp("finished"))


def whole_run(workdir):
    splits = images(32, 0), images(8, 1), images(10, 2), None, images(20, 3)
    rng = np.random.default_rng(0)
    label = np.where(rng.random(32) < 0.3, rng.integers(3, size=32), splits[0].label)
    splits = (splits[0]._replace(label=label.astype(np.int32), true_label=splits[0].label),
              *splits[1:])  # fmt: skip
    fields = {"warm_up": 1.0, "settle_at": 2 / 3, "num_steps": 6, "batch_size": 16}
    fields |= {"lr_schedule": "cosine", "compare_plain": True, "retrain": "relabel"}
    fields |= {"judge_for": 1 / 3}
    fields |= dict.fromkeys(("log_every_steps", "eval_every_steps", "checkpoint_every_steps"), 2)
    result = run(splits, workdir, model=SmallNet(0.3), **fields)
    return splits, fields, workdir, result


def test_the_result_has_the_scores_and_times_of_all_phases(finished):
    _, _, workdir, result = finished
    evals = {r["step"]: r for r in read_metrics(workdir) if r["kind"] == "eval"}
    trains = {r["step"]: r for r in read_metrics(workdir) if r["kind"] == "train"}
    settles = "judge" not in result
    assert result["settled"] == settles
    later = {"plain": 12, "retrained": 18}
    if not settles:
        later = {"judge": 8, "plain": 14, "retrained": 20, "judge_retrained": 22}
    stops = {"warm_up": 2, "unsettled": 4, "last": 6} | later
    for name, step in stops.items():
        assert result[name]["step"] == step
        for split in ("test", "clean", "calibration"):
            assert result[name][f"{split}_accuracy"] == evals[step][split]["accuracy"]
    assert list(result["seconds_at"]) == list(stops)
    seconds = list(result["seconds_at"].values())
    assert seconds == sorted(seconds) and seconds[0] > 0
    assert seconds == [round(trains[step]["seconds"], 1) for step in stops.values()]
    assert result["seconds"] == result["seconds_at"]["last"]
    assert result["best"]["step"] in (2, 4, 6)
    weighed = [4] if settles else [4, 6]
    assert [step for step, r in evals.items() if "weights" in r] == weighed
    assert result["weights"] == evals[weighed[-1]]["weights"] and "margin_auc" in result["weights"]
    table = results.table(result)
    for name in stops:
        assert f"{result[name]['test_error']:.2%}" in table


FILES = ("examples.npz", "calibration.npz", "suspect_inputs.npz", "suspects.csv")


def test_stopped_anywhere_it_ends_the_same(finished, tmp_path, monkeypatch):
    """Killed after each checkpoint in turn: in every phase, and between each two."""
    splits, fields, workdir, result = finished

    class Stopped(Exception):
        pass

    class Killed(loop.Checkpoints):
        stops = []

        def save(self, state, *rest):
            super().save(state, *rest)
            if int(state.step) not in self.stops:
                self.stops.append(int(state.step))
                raise Stopped

    monkeypatch.setattr(loop, "Checkpoints", Killed)
    resumed = None
    while resumed is None:
        try:
            resumed = run(splits, tmp_path, model=SmallNet(0.3), **fields)
        except Stopped:
            pass
    end = max(result[name]["step"] for name in result["seconds_at"])
    assert Killed.stops == [*range(2, end + 1, 2)]
    assert without_times(resumed) == without_times(result)
    assert read_sealed(tmp_path / "result.json") == resumed
    chex.assert_trees_all_equal(saved(tmp_path, end), saved(workdir, end))
    assert records(tmp_path) == records(workdir)
    for name in FILES:
        if name.endswith(".npz"):
            chex.assert_trees_all_equal(npz(tmp_path / name), npz(workdir / name))
        else:
            assert (tmp_path / name).read_bytes() == (workdir / name).read_bytes()
    pages = [(path / "label_report.html").read_text() for path in (tmp_path, workdir)]
    assert pages[0].replace(str(tmp_path), "") == pages[1].replace(str(workdir), "")


def test_a_finished_run_is_written_again_as_it_was(finished):
    splits, fields, workdir, result = finished
    before = {name: (workdir / name).read_bytes() for name in (*FILES[-1:], "label_report.html")}
    assert without_times(run(splits, workdir, model=SmallNet(0.3), **fields)) == without_times(
        result
    )
    for name, content in before.items():
        assert (workdir / name).read_bytes() == content


@pytest.mark.slow
def test_four_devices_settle_and_retrain_as_one(tmp_path, monkeypatch):
    monkeypatch.setattr(selection, "LEARNS_FAST", 1.0)
    task = "classification"
    splits = [examples(task, n, n, wrong) for n, wrong in ((24, 0.3), (8, 0), (16, 0))]
    fields = {"warm_up": 1 / 3, "settle_at": 2 / 3, "retrain": "relabel"}
    fields |= {"clean_batch_size": 8, "momentum": 0.0}
    fields |= {"labels.false_alarm_rate": 0.5}
    one, four = (tmp_path / "one", tmp_path / "four")
    outcomes = [
        run(splits, path, devices=devices, **fields)
        for path, devices in ((one, ONE_DEVICE), (four, jax.devices()))
    ]
    assert outcomes[0]["settled"] and outcomes[1]["settled"]
    for name in ("warm_up", "unsettled", "last", "retrained"):
        assert outcomes[1][name] == pytest.approx(outcomes[0][name], rel=1e-4)
    chex.assert_trees_all_close(saved(four, 18), saved(one, 18), rtol=1e-4, atol=1e-5)
    for name in ("examples.npz", "calibration.npz"):
        chex.assert_trees_all_close(npz(four / name), npz(one / name), rtol=1e-4, atol=1e-5)
    rows = [(path / "suspects.csv").read_text().count("relabel") for path in (one, four)]
    assert rows[0] == rows[1] > 0
