"""The records of a run, also as metrics.jsonl and TensorBoard events.

The best step, the speed and the plots are computed from them. Each checkpoint holds those up to its
step, so that a resumed run reports what an uninterrupted one does, and writes the files anew.
"""

import contextlib
import json
import os
import pathlib
import sys
import time

import jax
import numpy as np
import tqdm
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog

from reweight_jax.errors import UserError
from reweight_jax.records.workdir import Workdir, flatten, writing
from reweight_jax.sealed import DamagedError, seal, unseal

MAX_CURVES = 100  # of one quantity: nobody looks at those of 1,000 classes


class MetricsWriter:
    """Appends records to metrics.jsonl and TensorBoard; `records` has all records of the run."""

    def __init__(self, workdir: Workdir, text: str = ""):
        """Begins with `text`, the lines up to the step resumed from, in place of the file's."""
        self._lines, self._checksum, self.records = [text], "", []
        for self._checksum, record in _read_lines(text, "the last checkpoint's metrics"):
            self.records.append(record)
        workdir.write("metrics.jsonl", text)
        self._workdir = workdir
        self._path = workdir.path / "metrics.jsonl" if workdir.writes else os.devnull
        self._events = None
        with writing(workdir.path):
            self._file = open(self._path, "a", buffering=1)
            if workdir.writes:  # without a thread, whose errors nobody would see
                self._events = EventsWriter(str(workdir.path / "events"), f".{os.getpid()}")
                step = max((r["step"] for r in self.records), default=0)
                start = SessionLog(status=SessionLog.START)  # hides what an earlier part wrote
                self._events.write_event(Event(step=step + 1, session_log=start))

    def write(self, record: dict) -> None:
        """Writes a record: "step", "kind", and numbers, lists of numbers or dicts of numbers.

        UserError if it cannot, or if the folder is gone: it would be made again, without its lock.
        """
        self._workdir.check_there()
        # Each checksum also covers the line before: none can go missing, or be there twice.
        sealed = seal(record, after=self._checksum)
        self._checksum = sealed["checksum"]
        self.records.append(record)
        self._lines.append(json.dumps(sealed) + "\n")
        with writing(self._path):
            self._file.write(self._lines[-1])
            if self._events and record["kind"] != "confusion":  # K x K numbers are no curves
                self._write_events(record)

    def _write_events(self, record):
        now, step = time.time(), record["step"]
        for name, value in flatten(record).items():
            if name in ("step", "kind") or np.size(value) > MAX_CURVES:
                continue
            values = {"": value} if np.ndim(value) == 0 else dict(enumerate(value))
            tag = f"{record['kind']}/{name.replace('.', '/')}"
            for suffix, number in values.items():
                curve = summary.scalar(f"{tag}/{suffix}".rstrip("/"), number)
                self._events.write_event(Event(wall_time=now, step=step, summary=curve))
        self._events.flush()

    @property
    def text(self) -> str:
        """What metrics.jsonl holds."""
        return "".join(self._lines)

    def of_kind(self, kind: str) -> list[dict]:
        return [record for record in self.records if record["kind"] == kind]

    def close(self) -> None:
        with writing(self._path):
            self._file.close()
            if self._events:
                self._events.close()


class TrainingLog:
    """Averages the metrics of an interval, and writes them without blocking the device.

    On a CPU the steps of a dispatch are done when it returns, and an interval is written at once.
    On an accelerator it is read after the next steps are dispatched.

    Attributes:
      rate: the field of the config that has the learning rate of the steps.
    """

    rate = "learning_rate"

    def __init__(self, writer: MetricsWriter, bar: tqdm.tqdm):
        self._writer, self._bar = writer, bar
        self._steps: list[dict] = []
        self._due: tuple[int, list[dict]] | None = None
        self._before = max((r["seconds"] for r in writer.of_kind("train")), default=0.0)
        self._start = self._mark = time.perf_counter()

    def add(self, step: int, metrics: dict, *, due: bool) -> None:
        """Takes the metrics [k, ...] of a dispatch up to `step`; `due`: an interval ends there."""
        self._steps.append(metrics)
        if due:
            self._due, self._steps = (step, self._steps), []
            if metrics["loss"].is_ready():
                self.write_due()

    def write_due(self) -> None:
        """Writes the interval that has ended, if any; raises UserError if a loss is not finite."""
        if self._due is None:
            return
        (step, metrics), self._due = self._due, None
        steps = jax.tree.map(lambda *parts: np.concatenate(parts), *jax.device_get(metrics))
        num_steps = len(steps["loss"])
        finite = np.isfinite(steps["loss"]) & np.isfinite(steps["plain_loss"])
        if not finite.all():
            raise UserError(
                f"the loss of step {step - num_steps + 1 + finite.argmin()} is not finite; the "
                f"last checkpoint before it is kept. Lower config.{self.rate}, or look for bad "
                "values in the data"
            )
        now = time.perf_counter()
        no_helpful = steps.pop("no_helpful").sum()
        means = {name: values.mean(0).tolist() for name, values in steps.items()}
        record = {"step": step, "kind": "train"} | means
        record["steps_without_helpful_example"] = int(no_helpful)
        record["steps_per_second"] = num_steps / (now - self._mark)
        record["seconds"] = self._before + now - self._start
        self._writer.write(record)
        shown = {name: f"{means[name]:.4g}" for name in ("loss", "error")}
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update(step - self._bar.n)
        self._mark = now

    @contextlib.contextmanager
    def paused(self):
        """Writes what is due, and excludes the time inside from the steps per second."""
        self.write_due()
        before = time.perf_counter()
        yield
        self._mark += time.perf_counter() - before


def read_metrics(folder: pathlib.Path) -> list[dict]:
    """Returns the records of a run; a last line that was cut by a kill is left out.

    Raises DamagedError for a line that is not what was written there.
    """
    path = folder / "metrics.jsonl"
    text = path.read_text(errors="replace") if path.exists() else ""
    return [record for _, record in _read_lines(text, path)]


def _read_lines(text, name):
    """Yields (checksum, record) of each whole line; DamagedError, with `name`, for a bad one."""
    checksum = ""
    for number, line in enumerate(text.split("\n")[:-1], 1):
        try:
            sealed = json.loads(line)
            record = unseal(sealed, after=checksum)
        except (ValueError, RecursionError):
            raise DamagedError(
                f"{name}: is damaged, or was edited, at line {number}; the command of its run "
                "writes it again"
            ) from None
        checksum = sealed["checksum"]
        yield checksum, record


def progress_bar(description: str, step: int, num_steps: int, *, shown: bool = True) -> tqdm.tqdm:
    """Returns a progress bar on stderr, which writes every 10 s if stderr is not a terminal."""
    options = {} if shown else {"disable": True}  # if not given, TQDM_DISABLE decides
    options |= {"mininterval": 0.5 if sys.stderr.isatty() else 10, "dynamic_ncols": True}
    return tqdm.tqdm(desc=description, total=num_steps, initial=step, unit="step", **options)
