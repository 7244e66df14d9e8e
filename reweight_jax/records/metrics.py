"""metrics.jsonl and TensorBoard events: the one record of a run.

The best step, the speed and the plots are worked out from it, so that a run that was stopped and
resumed reports what an uninterrupted one does.
"""

import contextlib
import json
import os
import pathlib
import sys
import time

import jax
import numpy as np
import tensorboardX
import tqdm

from reweight_jax.errors import UserError
from reweight_jax.records.workdir import Workdir, flatten


class MetricsWriter:
    """Appends records to metrics.jsonl and TensorBoard.

    Attributes:
      records: all records, of earlier processes of the run as well.
    """

    def __init__(self, workdir: Workdir, records: list[dict]):
        """Keeps `records`, those up to the step resumed from, and drops the rest of the file."""
        self.records = list(records)
        workdir.write("metrics.jsonl", "".join(json.dumps(r) + "\n" for r in records))
        path = workdir.path / "metrics.jsonl" if workdir.writes else os.devnull
        self._file = open(path, "a", buffering=1)
        step = max((r["step"] for r in records), default=0)
        self._events = tensorboardX.SummaryWriter(
            str(workdir.path), purge_step=step + 1, write_to_disk=workdir.writes
        )

    def write(self, record: dict) -> None:
        """`record` has a "step", a "kind" and numbers, lists of numbers or groups of numbers."""
        self.records.append(record)
        self._file.write(json.dumps(record) + "\n")
        if record["kind"] == "confusion":  # K x K numbers are no curves
            return
        for name, value in flatten(record).items():
            if name in ("step", "kind"):
                continue
            values = {"": value} if np.ndim(value) == 0 else dict(enumerate(value))
            for suffix, number in values.items():
                tag = f"{record['kind']}/{name.replace('.', '/')}{suffix and f'/{suffix}'}"
                self._events.add_scalar(tag, number, record["step"])

    def of_kind(self, kind: str) -> list[dict]:
        return [record for record in self.records if record["kind"] == kind]

    def close(self) -> None:
        self._file.close()
        self._events.close()


class TrainingLog:
    """Averages the metrics of an interval, and writes them once the device does not wait for that.

    On a CPU the steps of a dispatch are done when it returns, and an interval is written at once.
    Elsewhere it is read after the next steps are on their way.
    """

    def __init__(self, writer: MetricsWriter, bar: tqdm.tqdm):
        self._writer, self._bar = writer, bar
        self._steps: list[dict] = []
        self._due: tuple[int, list[dict]] | None = None
        self._before = max((r["seconds"] for r in writer.of_kind("train")), default=0.0)
        self._start = self._mark = time.perf_counter()

    def add(self, step: int, metrics: dict, *, due: bool) -> None:
        """Takes the metrics of a dispatch that ends at `step`, each with a leading axis of steps.

        `due`: whether it ends an interval. Raises UserError as `write_due`.
        """
        self._steps.append(metrics)
        if due:
            self._due, self._steps = (step, self._steps), []
            if metrics["loss"].is_ready():
                self.write_due()

    def write_due(self) -> None:
        """Writes the interval that has ended, if any; UserError if a loss is not finite."""
        if self._due is None:
            return
        (step, metrics), self._due = self._due, None
        steps = jax.tree.map(lambda *parts: np.concatenate(parts), *jax.device_get(metrics))
        num_steps = len(steps["loss"])
        finite = np.isfinite(steps["loss"]) & np.isfinite(steps["plain_loss"])
        if not finite.all():
            raise UserError(
                f"the loss of step {step - num_steps + 1 + finite.argmin()} is not finite; the "
                "last checkpoint before it is kept. Lower config.learning_rate, or look for bad "
                "values in the data"
            )
        now = time.perf_counter()
        no_helpful = steps.pop("no_helpful").sum()
        means = {name: values.mean(0) for name, values in steps.items()}
        self._writer.write(
            {
                "step": step,
                "kind": "train",
                **{name: value.tolist() for name, value in means.items()},
                "steps_without_helpful_example": int(no_helpful),
                "steps_per_second": num_steps / (now - self._mark),
                "seconds": self._before + now - self._start,
            }
        )
        values = {name: f"{float(means[name]):.4g}" for name in ("loss", "error")}
        self._bar.set_postfix(values, refresh=False)
        self._bar.update(step - self._bar.n)
        self._mark = now

    @contextlib.contextmanager
    def paused(self):
        """Writes what is due, and leaves the time inside out of the steps per second."""
        self.write_due()
        before = time.perf_counter()
        yield
        self._mark += time.perf_counter() - before


def read_metrics(folder: pathlib.Path) -> list[dict]:
    """Returns the records of a run, without a last line that a kill cut short."""
    path = folder / "metrics.jsonl"
    records = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            records.append(json.loads(line))
        except ValueError:
            break
    return records


def progress_bar(description: str, step: int, num_steps: int, *, shown: bool = True) -> tqdm.tqdm:
    """Returns a progress bar on stderr, which writes every 10 s if stderr is not a terminal."""
    return tqdm.tqdm(
        desc=description,
        total=num_steps,
        initial=step,
        unit="step",
        mininterval=0.5 if sys.stderr.isatty() else 10,
        dynamic_ncols=True,
        **({} if shown else {"disable": True}),  # if not given, TQDM_DISABLE decides
    )
