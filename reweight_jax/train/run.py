"""One seed of a run: its data, its folder and its records. The state is the training loop's."""

import os
import pathlib

import numpy as np

from reweight_jax.data import splits as data
from reweight_jax.errors import UserError
from reweight_jax.records import plots, report
from reweight_jax.train import hosts as processes
from reweight_jax.train.config import CLEAN_IN_TRAIN
from reweight_jax.train.evaluate import evaluate_splits, weight_statistics


def folders_of(config, workdir: str | os.PathLike) -> list[tuple]:
    """(config, folder) of the single runs that `config.num_seeds` stands for, seed after seed."""
    workdir = pathlib.Path(workdir).expanduser()
    runs = []
    for seed in range(config.seed, config.seed + config.num_seeds):
        one = config.copy_and_resolve_references()
        one.seed, one.trial, one.num_seeds = seed, seed, 1
        one.confusion_from = config.confusion_from.replace("{seed}", str(seed))
        runs.append((one, workdir if config.num_seeds == 1 else workdir / f"seed{seed}"))
    return runs


class Run:
    """What a seed has of its own.

    Attributes:
      config: of this seed alone.
      splits: its data.
      num_classes: K.
      best: the record of its best evaluation so far, or None.
      writer: of metrics.jsonl, once the run is `open`.
    """

    def __init__(self, config, workdir: str | os.PathLike, method, shared=None):
        """Loads the data, and checks the folder; nothing is written yet.

        `shared` is the folder of the run of many seeds that this is one of, or None.
        """
        self.config = config
        self.splits = load_splits(config, method)
        self.num_classes = data.num_classes_of(config.data, self.splits)
        self.workdir = report.open_workdir(workdir, config)
        self._check_alone(pathlib.Path(shared) if shared else None)
        self.best = None
        train = self.splits.train
        self._wrong = train.label != train.true_label
        self._names = list(config.data.classes) or range(self.num_classes)

    def _check_alone(self, shared):
        """Raises UserError where the records in the folder are of a run with other checkpoints."""
        if not processes.is_first() or not (self.workdir / "metrics.jsonl").exists():
            return
        others = self.workdir if shared else self.workdir.parent
        mine = shared or self.workdir
        if (others / "checkpoints").exists() and not (mine / "checkpoints").exists():
            kind = "alone" if shared else "with others (config.num_seeds)"
            raise UserError(
                f"--workdir {self.workdir}: holds a seed that was trained {kind}; go on with that "
                "run, or remove the folder"
            )

    def open(self, step: int) -> report.MetricsWriter:
        """Goes on with the records of the run at `step`; the writer is the caller's to close."""
        report.write_config(self.workdir, self.config)
        self.writer = report.MetricsWriter(self.workdir, step)
        self.best = report.best_evaluation(self.writer.records("eval"), self.config.num_steps)
        if not self.best and step >= self.config.eval_every_steps:
            self.writer.close()
            raise UserError(
                f"{self.workdir}/metrics.jsonl: has no evaluation, but there is a checkpoint of "
                f"step {step}; put the file back, or remove the folder"
            )
        return self.writer

    def has_confusion(self, step: int) -> bool:
        """Whether the confusion matrices of `step` were on record: a phase's last step has them."""
        return any(r["step"] == step for r in self.writer.records("confusion"))

    def evaluate(self, predict, state, step: int, *, chooses: bool, ends: bool) -> bool:
        """Writes what the run has come to; returns whether it is the best so far.

        Args:
          predict: as `parallel.compile_predict` returns it.
          state: after `step`.
          chooses: whether it is of the training itself, which the best step is chosen from.
          ends: whether it is the last of its phase.
        """
        scores, confusion = evaluate_splits(predict, self.splits, state, self.num_classes)
        record = {"step": step, "kind": "eval", **scores}
        is_best = False
        if chooses:
            record["weights"] = weight_statistics(state.history, self._wrong)
            is_best = not self.best or report.goodness(record) >= report.goodness(self.best)
            if is_best:
                self.best = record
            if ends:
                weights = np.asarray(state.history.last_weight)
                plots.plot_weights(weights, self._groups(), self.workdir / "plots" / "weights.png")
        self.writer.write(record)
        if is_best or ends:
            self.writer.write({"step": step, "kind": "confusion", **confusion})
        return is_best

    def finish(self, phases, devices) -> dict:
        """Writes result.json and the plots of a run whose `phases` are done; returns the result."""
        records = processes.from_first(lambda: report.read_metrics(self.workdir))
        stops = {phase.name: phase.stop for phase in phases}
        result = report.build_result(self.config, records, stops, devices)
        report.write_atomically(self.workdir / "result.json", report.to_json(result))
        folder, starts = self.workdir / "plots", [phase.start for phase in phases[1:]]
        plots.plot_training_curve(records, starts, folder / "training_curve.png")
        confusion = result["confusion"]["last"]["test"]
        plots.plot_confusion(confusion, self._names, folder / "confusion.png")
        return result

    def _groups(self):
        """What the histogram of weights tells apart: wrong labels, or the classes."""
        if self._wrong.any():
            return {"right labels": ~self._wrong, "wrong labels": self._wrong}
        label = self.splits.train.label
        return {f"class {name}": label == k for k, name in enumerate(self._names)}


def load_splits(config, method) -> data.Splits:
    """Loads the data, with the clean images in the training set too where the config says so.

    The clean set itself is small, and in memory even if the others are streamed.
    """
    splits = data.load(config.data, config.seed)
    if CLEAN_IN_TRAIN[config.data.clean_in_train](method):
        splits = splits._replace(train=data.concatenate(splits.train, splits.clean))
    return splits._replace(clean=splits.clean.in_memory())
