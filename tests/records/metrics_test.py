"""The log of training: what it averages, and over which time."""

import types

import numpy as np
import pytest
import tqdm

from reweight_jax.records import metrics as records


class Metric(np.ndarray):
    """Values of a dispatch, as a device that is `ready`, or is still at work on them."""

    ready = True

    def is_ready(self):
        return self.ready


def metrics(losses, ready):
    values = np.array(losses).view(Metric)
    values.ready = ready
    return {"loss": values, "plain_loss": values, "error": values, "no_helpful": 0 * values}


@pytest.mark.parametrize("ready", [True, False])
def test_the_time_of_an_interval_is_that_of_its_own_steps(ready, monkeypatch):
    """Dispatches of two steps: one second each, in the call on a CPU, else where they are read."""
    now, written = 0.0, []
    monkeypatch.setattr(records, "time", types.SimpleNamespace(perf_counter=lambda: now))
    writer = types.SimpleNamespace(of_kind=lambda kind: [], write=written.append)
    log = records.TrainingLog(writer, tqdm.tqdm(total=12, disable=True))
    for i in range(6):
        now += 1.0 if ready else 0.0
        log.write_due()
        log.add(2 * i + 2, metrics([i, i + 0.5], ready), due=i % 2 == 1)
        if i % 2 and not ready:
            now += 2.0  # the device, until what is due can be read
        if i == 3:
            with log.paused():
                now += 100.0
    with log.paused():
        pass
    assert [r["step"] for r in written] == [4, 8, 12]
    assert [r["steps_per_second"] for r in written] == [2.0, 2.0, 2.0]
    assert [r["loss"] for r in written] == [0.75, 2.75, 4.75]
    assert written[-1]["seconds"] == 106.0


def test_a_last_line_that_a_kill_cut_short_is_left_out(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "kind": "eval"}\n{"step": 2, "ki')
    assert records.read_metrics(tmp_path) == [{"step": 1, "kind": "eval"}]
    assert records.read_metrics(tmp_path / "none") == []
