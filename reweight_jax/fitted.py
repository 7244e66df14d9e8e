"""A finished run as an object: its result, its examples, and predictions."""

import collections
import os
import pathlib
import shutil
from numbers import Integral
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from reweight_jax.configs import default
from reweight_jax.data.inputs import as_inputs, check_tokens, like_train, table_names, take_columns
from reweight_jax.data.splits import are_features
from reweight_jax.errors import UserError, choose, one_line, prefix
from reweight_jax.labels.sections import PHASES
from reweight_jax.labels.suspects import suspects_table
from reweight_jax.models import MODELS, OF_TOKENS, Model
from reweight_jax.models.outputs import outputs_of, same_outputs
from reweight_jax.paths import expand
from reweight_jax.records import judged
from reweight_jax.records.workdir import Workdir, read_run, write_atomically
from reweight_jax.sealed import read_npz
from reweight_jax.tasks import TASKS, Task
from reweight_jax.train.checkpoints import read_model
from reweight_jax.train.evaluate import compile_predict
from reweight_jax.train.models import build_model, sample_of
from reweight_jax.train.programs import Programs, kind_of


class Fitted:
    """A finished run. It can be pickled, and then predicts without its folder.

    Attributes:
      workdir: its folder.
      config: its ConfigDict.
      result: the contents of result.json.
      task: its `reweight_jax.tasks.Task`.
      classes: names or values of the K outputs, in their order; () for regression.
      columns: names of the inputs' columns, if they were a table; else ().
      sample: zeros in the types and the form of one example's inputs, [1, ...].
      examples: dict of numpy arrays, one entry a training example, in the order given: index (row
        in the data), label (as trained on; `classes[label]` for classification), visits (batches
        that held it), and means over these visits: weight (1 is plain training), margin (above 0
        the model agrees with the label; docs/labels.md says when later models have a say), and
        alignment (below 0 a step on it would have raised the clean loss; if the method has a clean
        gradient). NaN before the first visit. Also id and true_label if they are known, and
        is_trusted, bool, if clean examples were trained on too (config.data.clean_in_train): their
        index is that of a row of the training set that was moved to the trusted set, or from N on.
        Held-out examples that were drawn from the training set have no entry.
    """

    def __init__(self, workdir: str | os.PathLike, *, model: Any = None, devices=None):
        """Reads the folder of a run; see `load`."""
        self.workdir = expand(workdir).absolute()
        saved, self.result = read_run(self.workdir)
        self.examples = read_npz(self.workdir / "examples.npz", self.result)
        try:
            self._facts = saved.pop("dataset")
            self.config = default.get_config()
            self.config.update(ConfigDict(saved))  # fields that are new since keep their defaults
            self.classes, self.columns = (tuple(self._facts[k]) for k in ("classes", "columns"))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            reason = one_line(error)
            raise UserError(f"{self.workdir}: a run of another version ({reason})") from None
        self._labels = self.examples["label"]
        order = np.argsort(self.examples["index"], kind="stable")
        self.examples = {name: array[order] for name, array in self.examples.items()}
        self.sample = sample_of(self._facts, scaled=False)
        self._given_model = model
        self._variables: dict[str, tuple] = {}
        self._build(devices or jax.local_devices())

    def __repr__(self):
        return f"Fitted({str(self.workdir)!r})"

    def predict(
        self, inputs: Any, step: str = "last", *, batch_size: int | None = None
    ) -> np.ndarray:
        """Returns probabilities [N, K] (classification, multi_label), or values [N] or [N, D].

        Args:
          inputs: as the training inputs, [N, ...] or a dict of arrays. Of a DataFrame, the columns
            that the model was trained on are taken by their names.
          step: "last", "best" on held-out data, or the end of another phase, such as "retrained".
          batch_size: examples computed at once; None: all, up to 500. A last batch is padded to it.

        Raises:
          UserError: inputs unlike the training set's, or a step whose checkpoint cannot be read.
        """
        with prefix("predict"):
            if not (batch_size is None or (isinstance(batch_size, Integral) and batch_size > 0)):
                raise ValueError(f"batch_size: {batch_size!r}; must be a whole number above 0")
            inputs = in_order(inputs, self.columns, "inputs")
            as_floats = are_features(self.columns, self.config)
            inputs = as_inputs(inputs, "inputs", as_floats=as_floats)
            inputs = like_train(inputs, self.sample, "inputs", "the training set")
            if self.config.model.name in OF_TOKENS:
                check_tokens(inputs, self._facts["vocabulary"], "inputs")
        return self._predict(*self._restore(step), inputs, batch_size)

    def suspects(self, **rates: float) -> dict[str, list]:
        """Returns the table of suspects.csv, column by column, worst label first.

        `pandas.DataFrame(run.suspects())` is the same as a DataFrame. `rates`: false_alarm_rate or
        false_discovery_rate, if they shall not be those of `config.labels`.
        """
        self._check_there()
        *_, examples, judgement = judged.judge_run(self.workdir, **rates)
        return suspects_table(examples, judgement, self.classes)

    def report(self, path: str | os.PathLike, **rates: float) -> pathlib.Path:
        """Writes label_report.html as the file `path`, and returns it; `rates` as in `suspects`."""
        self._check_there()
        path, (files, _) = expand(path), judged.render(self.workdir, **rates)
        write_atomically(path, files["label_report.html"])
        return path

    def save(self, folder: str | os.PathLike) -> pathlib.Path:
        """Copies the folder of the run to `folder`, which must not exist; returns its path."""
        self._check_there()
        folder = expand(folder).absolute()
        if os.path.lexists(folder):
            raise UserError(f"{folder}: the run cannot be saved there (it is there already)")
        temporary = folder.with_name(f".{folder.name}.{os.getpid()}.part")
        try:
            shutil.copytree(self.workdir, temporary)
            return temporary.rename(folder)
        except OSError as error:
            shutil.rmtree(temporary, ignore_errors=True)
            # Of the files that could not be copied, shutil has (from, to, reason).
            reason = error.args[0][0][-1] if isinstance(error, shutil.Error) else error.strerror
            raise UserError(f"{folder}: the run cannot be saved there ({reason})") from None

    def _check_there(self):
        if not self.workdir.exists():
            raise UserError(
                f"{self.workdir}: the folder of the run is gone; a temporary one goes with the "
                "result that made it: save() it before it is pickled, or give a workdir"
            )

    def _build(self, devices):
        """Makes what no pickle can hold: compiled functions and what belongs to devices."""
        self._devices = list(devices)
        name, model = self.config.model.name, self._given_model
        if model is None and name not in ("auto", *MODELS):
            raise UserError(
                f"{self.workdir}: its model is not a built-in one; give it as load(..., model=...)"
                if name == "own"
                else f"{self.workdir}: its model {name} is not in MODELS; first load the config "
                "file that adds it (on the command line --config=FILE)"
            )
        make_task = choose("config.task", self.config.task, TASKS)
        self.task = make_task(self._labels, self._facts["num_outputs"])
        with prefix("load"):
            programs = Programs(kind_of(self.config, self._facts, self._devices, model))
            built = build_model(self.config, self._facts, self._devices, programs, model)
            before = self._facts.get("own_model", {}).get(self._devices[0].platform)
            if before and not same_outputs(outputs_of(built, sample_of(self._facts)), before):
                raise UserError(
                    f"{self.workdir}: was trained with another model: from the same parameters it "
                    "computed something else"
                )
        self._model = _predictor(built, self.task)
        self._predict = compile_predict(self._model, self._devices, programs, "predictions")

    def __getstate__(self):
        self._restore("last")  # its folder may be gone when the pickle is read
        left_out = ("_devices", "_predict", "_model", "task")
        state = {name: value for name, value in vars(self).items() if name not in left_out}
        variables = jax.device_get(self._variables)
        return state | {"_variables": variables, "_num_devices": len(self._devices)}

    def __setstate__(self, state):
        num_devices = state.pop("_num_devices")
        vars(self).update(state)
        self._build(jax.local_devices()[:num_devices])

    def _restore(self, name):
        """(params, model_state) of the model at a step of the result."""
        if name not in PHASES or name not in self.result:
            valid = [key for key in PHASES if key in self.result]
            raise UserError(f"step: {name!r}; valid: {', '.join(valid)}")
        if name not in self._variables:
            like = jax.eval_shape(self._model.init, jax.random.key(0), sample_of(self._facts))
            step, folder = self.result[name]["step"], self.workdir / "checkpoints"
            if not (folder / str(step)).is_dir():
                raise UserError(
                    f"{folder / str(step)}: is not there; if the run is being made longer, its "
                    "command must end first"
                )
            check = Workdir(self.workdir, self.config, self._facts).check_checkpoint
            self._variables[name] = read_model(folder, step, like, self._devices[0], check)
        return self._variables[name]


def _predictor(model: Model, task: Task) -> Model:
    """The model with what the task makes of its outputs; JAX's caches keep it, not the run."""

    def apply(*arguments, **options):
        outputs, model_state = model.apply(*arguments, **options)
        return task.predict(outputs), model_state

    return model._replace(apply=apply)


def in_order(table: Any, columns: tuple[str, ...], name: str) -> Any:
    """Returns a DataFrame with the training set's columns in their order; anything else unchanged.

    Raises ValueError, with the `name` of the table, if one of them is missing or is there twice.
    """
    names = table_names(table)
    if not columns or not names:
        return table
    place, counts = {column: i for i, column in enumerate(names)}, collections.Counter(names)
    for column in columns:
        if column not in place:
            raise ValueError(f"{name}: lacks the column {column}, which the training set has")
        if counts[column] > 1:
            raise ValueError(f"{name}: two columns have the name {column}")
    return take_columns(table, [place[column] for column in columns])
