"""What a run leaves to read: config.json, metrics.jsonl, TensorBoard events, result.json, a table.

metrics.jsonl is the one record: the best step, the speed and the plots are worked out from it, so
that a run that was stopped and resumed reports what an uninterrupted one does. Of several processes
the first alone writes it.
"""

import contextlib
import importlib.metadata
import json
import os
import pathlib
import re
import statistics
import sys
import time

import jax
import numpy as np
import tensorboardX
import tqdm

from reweight_jax.errors import UserError
from reweight_jax.methods import METHODS
from reweight_jax.train import hosts as processes
from reweight_jax.train.evaluate import EVALUATED

KINDS = ("train", "eval", "confusion")  # of records


def open_workdir(workdir: str | os.PathLike, config) -> pathlib.Path:
    """Makes the folder of a run, or checks that the one there is of this config.

    What may differ from the config there is what leaves the steps taken as they are: `num_steps`
    where nothing depends on it, fine-tuning that is new, and how data is read. Raises UserError
    where the folder cannot be written, or holds another config's run; or where the processes of a
    run have configs that differ.
    """
    workdir = pathlib.Path(workdir).expanduser()
    path = workdir / "config.json"
    new = _flat(json.loads(config.to_json()))
    for name, value in processes.from_first(lambda: new).items():
        if new[name] != value:
            raise UserError(f"config.{name}: {new[name]}, but {value} in the first process")
    if not processes.is_first():
        return workdir
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        if not os.access(workdir, os.W_OK):
            raise PermissionError("not writable")
        old = _flat(json.loads(path.read_text())) if path.exists() else new
    except (OSError, ValueError) as error:
        raise UserError(f"--workdir {workdir}: cannot be used ({error})") from None
    differing = {name for name in old | new if old.get(name) != new.get(name)}
    before, now = old.get("finetune_from"), config.finetune_from
    if before == now == "none" and not METHODS[config.method].uses_num_steps:
        differing -= {"num_steps"}
    if before == "none":
        differing -= {"finetune_from", "finetune_steps", "finetune_learning_rate"}
    if (before, now) == ("last", "both"):
        differing -= {"finetune_from"}
    differing -= {"confusion_from"}  # the run that it names may have been moved
    differing -= {"data.resident", "data.workers"}  # the same batches either way
    if differing:
        raise UserError(
            f"--workdir {workdir}: holds a run with another config.{min(differing)}; "
            "choose another folder, or remove this one"
        )
    return workdir


def write_config(workdir: pathlib.Path, config) -> None:
    """Writes config.json: what `open_workdir` compares with, and a record of the run."""
    text = json.dumps(json.loads(config.to_json()), indent=2, sort_keys=True) + "\n"
    write_atomically(workdir / "config.json", text)


def write_atomically(path: pathlib.Path, content: str | bytes) -> None:
    """Writes beside and renames, so that a killed run leaves the old file or the new one."""
    if not processes.is_first():
        return
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")  # its own for each process
    beside.write_bytes(content.encode() if isinstance(content, str) else content)
    beside.replace(path)


class MetricsWriter:
    """Appends records to metrics.jsonl and TensorBoard; drops those after the step resumed from."""

    def __init__(self, workdir: pathlib.Path, step: int):
        self.path = workdir / "metrics.jsonl"
        records = processes.from_first(lambda: read_metrics(workdir))
        self._kept = [r for r in records if r["step"] <= step]
        write_atomically(self.path, "".join(json.dumps(r) + "\n" for r in self._kept))
        here = processes.is_first()
        self._file = open(self.path if here else os.devnull, "a", buffering=1)
        self._events = tensorboardX.SummaryWriter(
            str(workdir), purge_step=step + 1, write_to_disk=here
        )

    def write(self, record: dict) -> None:
        """`record` has a "step", a "kind" and numbers, lists of numbers or groups of numbers."""
        self._file.write(json.dumps(record) + "\n")
        if record["kind"] == "confusion":  # K x K numbers are no curves
            return
        for name, value in _flat(record).items():
            if name in ("step", "kind"):
                continue
            values = {"": value} if np.ndim(value) == 0 else dict(enumerate(value))
            for suffix, number in values.items():
                tag = f"{record['kind']}/{name.replace('.', '/')}{suffix and f'/{suffix}'}"
                self._events.add_scalar(tag, number, record["step"])

    def records(self, kind: str) -> list[dict]:
        """Returns what an earlier run had written up to the step resumed from."""
        return [r for r in self._kept if r["kind"] == kind]

    def close(self) -> None:
        self._file.close()
        self._events.close()


class TrainingLog:
    """Averages the metrics of an interval and writes them once reading them is no waiting.

    That is at once on a CPU, whose steps are done when a dispatch returns. Where they are not, an
    interval is read after the next steps are on their way: the device does not wait for the log.
    """

    def __init__(self, writers: dict[int, MetricsWriter], bar: tqdm.tqdm):
        """`writers`: of each seed; that of the first knows how long the run has taken."""
        self._seeds, self._writers, self._bar = list(writers), list(writers.values()), bar
        self._steps: list[dict] = []
        self._due: tuple[int, list[dict]] | None = None
        self._before = max((r["seconds"] for r in self._writers[0].records("train")), default=0.0)
        self._start = self._mark = time.perf_counter()

    def add(self, step: int, metrics: dict, *, due: bool) -> None:
        """Takes the metrics of a dispatch ending at `step`, each with a leading axis of steps.

        Of many seeds a second one is of the seeds. Raises UserError as `write_due`.
        """
        self._steps.append(metrics)
        if due:
            self._due, self._steps = (step, self._steps), []
            if metrics["loss"].is_ready():
                self.write_due()

    def write_due(self) -> None:
        """Writes the interval that has ended, if any; raises UserError at a non-finite loss."""
        if self._due is None:
            return
        (step, metrics), self._due = self._due, None
        steps = jax.tree.map(lambda *parts: np.concatenate(parts), *jax.device_get(metrics))
        num_steps = len(steps["loss"])
        if len(self._writers) == 1:
            steps = jax.tree.map(lambda values: values[:, None], steps)
        finite = np.isfinite(steps["loss"]) & np.isfinite(steps["plain_loss"])
        if not finite.all():
            bad, seed = np.argwhere(~finite)[0]  # the first step, and of its seeds the first
            raise UserError(
                f"the loss of step {step - num_steps + 1 + bad} of seed {self._seeds[seed]} is not "
                "finite; the last checkpoint before it is kept. Lower config.learning_rate, or "
                "look for bad values in the data"
            )
        now = time.perf_counter()
        no_helpful = steps.pop("no_helpful").sum(0)
        means = jax.tree.map(lambda values: values.mean(0), steps)
        for i, writer in enumerate(self._writers):
            record = {
                "step": step,
                "kind": "train",
                **{name: values[i].tolist() for name, values in means.items()},
                "steps_without_helpful_example": int(no_helpful[i]),
                "steps_per_second": num_steps / (now - self._mark),
                "seconds": self._before + now - self._start,
            }
            writer.write(record)
        loss, error = float(means["loss"].mean()), float(means["error"].mean())
        self._bar.set_postfix(loss=f"{loss:.4f}", error=f"{error:.2%}", refresh=False)
        self._bar.update(step - self._bar.n)
        self._mark = now

    @contextlib.contextmanager
    def paused(self):
        """Writes what is due, and leaves the time inside out of the steps per second."""
        self.write_due()
        before = time.perf_counter()
        yield
        self._mark += time.perf_counter() - before


def read_metrics(workdir: pathlib.Path) -> list[dict]:
    """Returns the records of a run, leaving out a last line that a kill cut short."""
    path = workdir / "metrics.jsonl"
    records = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            records.append(json.loads(line))
        except ValueError:
            break
    return records


def progress_bar(config, step: int, num_steps: int):
    """A bar on the error stream; where that is a file, a line in ten seconds."""
    quiet = {} if processes.is_first() else {"disable": True}  # not given: TQDM_DISABLE says
    more = config.num_seeds - 1 or ""
    return tqdm.tqdm(
        desc=f"{config.method} seed {config.seed}{more and f' and {more} more'}",
        total=num_steps,
        initial=step,
        unit="step",
        mininterval=0.5 if sys.stderr.isatty() else 10,
        dynamic_ncols=True,
        **quiet,
    )


def goodness(evaluation: dict) -> float:
    """What the best step is chosen by: accuracy on hyper_val, never on the test set."""
    return evaluation["hyper_val"]["accuracy"]


def best_evaluation(records: list[dict], num_steps: int) -> dict | None:
    """The best evaluation of the first `num_steps` steps, the later of equals; None without any."""
    evals = [r for r in records if r["kind"] == "eval" and r["step"] <= num_steps]
    return max(evals, key=lambda r: (goodness(r), r["step"]), default=None)


def build_result(config, records: list[dict], stops: dict[str, int], devices) -> dict:
    """Makes the contents of result.json from a finished run's records.

    Args:
      config: the run's.
      records: of metrics.jsonl.
      stops: name -> last step of each phase; the training itself is "last".
      devices: the run's.

    Returns:
      Scores of each phase's last step, and those of the training's best step as "best"; the
      confusion matrices of all of these; how well the weights told wrong labels from right ones.
    """
    trains = [r for r in records if r["kind"] == "train" and r["step"] <= stops["last"]]
    by_step = {kind: {r["step"]: r for r in records if r["kind"] == kind} for kind in KINDS}
    best = best_evaluation(records, stops["last"])["step"]
    steps = {"last": stops["last"], "best": best} | stops
    return {
        "config": config.name,
        "variant": config.variant,
        "method": config.method,
        "dataset": config.data.name,
        "seed": config.seed,
        "num_steps": config.num_steps,
        **{name: _flat_scores(by_step["eval"][step]) for name, step in steps.items()},
        "weights": by_step["eval"][stops["last"]]["weights"],
        "steps_without_helpful_example": sum(r["steps_without_helpful_example"] for r in trains),
        "seconds": round(trains[-1]["seconds"], 1),
        "steps_per_second": round(statistics.median(r["steps_per_second"] for r in trains), 2),
        "device": f"{len(devices)} x {devices[0].device_kind}",
        "versions": {
            package: importlib.metadata.version(package)
            for package in ("jax", "flax", "optax", "numpy")
        },
        "confusion": {
            name: {split: by_step["confusion"][step][split] for split in ("test", "hyper_val")}
            for name, step in steps.items()
        },
    }


def to_json(result: dict) -> str:
    """JSON with one field a line, and one row of a matrix."""
    text = json.dumps(result, indent=2)
    return re.sub(r"\[[\d\s,]+\]", lambda row: " ".join(row[0].split()), text) + "\n"


WEIGHT_ROWS = {
    "last weights, right against wrong labels, AUC": "auc",
    "mean weights, likewise": "mean_auc",
    "mean alignment, likewise": "alignment_auc",
    "last weight on wrong labels": "wrong_mass",
    "right labels whose last weight is 0": "zero_right",
    "wrong labels whose last weight is 0": "zero_wrong",
}


def table(result: dict) -> str:
    """The lines that a run ends with."""
    config_name = ":".join(filter(None, (result["config"], result["variant"])))
    rows = [
        ("method", result["method"]),
        ("dataset", f"{result['dataset']} ({config_name})"),
        ("seed", result["seed"]),
        ("test error, last step", f"{result['last']['test_error']:.2%}"),
        (
            "test error, best on hyper-validation",
            f"{result['best']['test_error']:.2%} (step {result['best']['step']})",
        ),
        *(
            (f"test error, fine-tuned from {begin}", f"{result[name]['test_error']:.2%}")
            for begin in ("last", "best")
            if (name := f"finetuned_{begin}") in result
        ),
        *(
            (name, f"{result['weights'][key]:.4f}")
            for name, key in WEIGHT_ROWS.items()
            if key in result["weights"]
        ),
        ("steps without a helpful example", result["steps_without_helpful_example"]),
        ("time", f"{result['seconds']:.0f} s, {result['steps_per_second']:.1f} steps/s"),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def _flat_scores(record):
    scores = {
        f"{split}_{score}": value for split in EVALUATED for score, value in record[split].items()
    }
    return {"step": record["step"], **scores}


def _flat(tree, prefix=""):
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    flat = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
