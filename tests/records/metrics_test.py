"""The log of training: what it averages, and over which time."""

import types

import numpy as np
import pytest
import tqdm

from reweight_jax.errors import UserError
from reweight_jax.records import metrics as records
from reweight_jax.records.workdir import Workdir


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


@pytest.fixture
def written(digits_config, tmp_path):
    """The lines of a metrics.jsonl, and its records."""
    writer = records.MetricsWriter(Workdir(tmp_path, digits_config(), {}))
    for step in (2, 4, 6, 8):
        writer.write({"step": step, "kind": "eval", "clean": {"loss": step / 7}})
    writer.close()
    assert records.read_metrics(tmp_path) == writer.records and len(writer.records) == 4
    assert writer.text == (tmp_path / "metrics.jsonl").read_text()
    return writer.text.splitlines(keepends=True), writer.records


@pytest.mark.parametrize(
    "damage, line",
    [
        (lambda lines: [lines[0], lines[1].replace("0.5", "0.6"), *lines[2:]], 2),
        (lambda lines: [lines[0], lines[1][:9], *lines[2:]], 2),
        (lambda lines: [lines[0], "null\n", *lines[2:]], 2),
        (lambda lines: [lines[0], "\n", *lines[1:]], 2),
        (lambda lines: [lines[0], *lines[2:]], 2),
        (lambda lines: lines[1:], 1),
        (lambda lines: [*lines, lines[-1]], 5),
        (lambda lines: [*lines[:2], lines[3], lines[2]], 3),
        (lambda lines: [*lines[:3], "[" * 100_000 + "\n"], 4),
    ],
)
def test_a_record_that_is_not_what_was_written_is_named(damage, line, written, tmp_path):
    lines, _ = written
    assert damage(lines) != lines
    (tmp_path / "metrics.jsonl").write_text("".join(damage(lines)))
    with pytest.raises(
        UserError, match=f"metrics.jsonl: is damaged, or was edited, at line {line};"
    ):
        records.read_metrics(tmp_path)


def test_a_last_line_that_a_kill_cut_short_is_left_out(written, tmp_path):
    lines, whole = written
    (tmp_path / "metrics.jsonl").write_text("".join(lines)[:-5])
    assert records.read_metrics(tmp_path) == whole[:3]
    assert records.read_metrics(tmp_path / "none") == []


def test_a_writer_begins_with_the_records_given(written, digits_config, tmp_path):
    lines, whole = written
    (tmp_path / "metrics.jsonl").write_text("damaged")
    writer = records.MetricsWriter(Workdir(tmp_path, digits_config(), {}), "".join(lines[:2]))
    assert writer.records == whole[:2]
    writer.write(whole[2])
    writer.close()
    assert (tmp_path / "metrics.jsonl").read_text() == "".join(lines[:3])


def test_curves_are_of_few_classes(digits_config, tmp_path):
    writer = records.MetricsWriter(Workdir(tmp_path, digits_config(), {}))
    for kind, num_classes in (("few", 10), ("many", 1000)):
        writer.write({"step": 1, "kind": kind, "loss": 1.0, "class_mass": [0.1] * num_classes})
    writer.close()
    (path,) = tmp_path.glob("events.out.tfevents.*")
    events = path.read_bytes()
    assert all(tag in events for tag in (b"few/loss", b"few/class_mass/9", b"many/loss"))
    assert b"many/class_mass" not in events
