"""Training from Python on your own model and arrays, and finished runs as objects."""

import json
import os
import pathlib
import shutil
import tempfile
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from reweight_jax.configs import default, own_data
from reweight_jax.data.examples import Part
from reweight_jax.data.inputs import as_inputs, like_train
from reweight_jax.data.splits import make_data
from reweight_jax.errors import UserError, prefix
from reweight_jax.tasks import TASKS
from reweight_jax.train import loop
from reweight_jax.train.checkpoints import read_model
from reweight_jax.train.config import build_model, make_experiment, sample_of
from reweight_jax.train.evaluate import compile_predict

PHASES = ("last", "best", "finetuned_last", "finetuned_best")


def fit(
    model: Any,
    train: tuple,
    *,
    clean: tuple | None = None,
    calibration: tuple | None = None,
    hyper_val: tuple | None = None,
    test: tuple | None = None,
    task: str = "classification",
    method: str = "reweight",
    workdir: str | os.PathLike | None = None,
    seed: int = 0,
    devices: list | None = None,
    progress: bool = True,
    **fields,
) -> "Fitted":
    """Trains `model` on labels that may be wrong, with the help of a few that you trust.

    Args:
      model: a Flax linen module, a Flax nnx module, a `Model(init, apply)` pair, the name of a
        built-in model, or None: an MLP for float features [N, D], a transformer for int tokens
        [N, T], a small CNN for images.
      train: (inputs, labels). Inputs are an array [N, ...] or a dict of arrays; uint8 is scaled to
        0..1, any other dtype goes to the model as it is. Labels by task: "classification", any
        values; "multi_label", 0 or 1 [N, K], -1 or NaN if missing; "regression", floats [N] or
        [N, D].
      clean: the trusted examples, likewise. `method="reweight"` needs them.
      calibration: more trusted examples, which no gradient sees.
      hyper_val: held-out examples to choose the best step by, with labels as bad as train's.
      test: test examples.
      task: a name in `reweight_jax.tasks.TASKS`.
      method: a name in `reweight_jax.methods.METHODS`.
      workdir: folder of the run, where the same call goes on if it was stopped; None: a temporary
        folder, deleted with the result.
      seed: draws the initialisation, the batches and all else that is drawn.
      devices: JAX devices; all of them if None.
      progress: whether to show a progress bar.
      **fields: fields of configs/default.py, with the defaults of configs/own_data.py; nested ones
        as dicts, for example data=dict(num_calibration=50); `model_fields` is config.model.

    Returns:
      `Fitted`.

    Raises:
      UserError (a ValueError): a field, or data that does not fit the model, method or task.
    """
    config = own_data.get_config()
    config.name, config.variant, config.data.name = "fit", "", "arrays"
    config.task, config.method, config.seed = task, method, seed
    if "model_fields" in fields:
        fields["model"] = fields.pop("model_fields")
    if isinstance(model, str):
        config.model.name, model = model, None
    elif model is not None:
        config.model.name = "own"
    try:
        config.update(fields)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"fit: {' '.join(str(error.args[0]).split())}") from None
    given = {"train": train, "clean": clean, "calibration": calibration}
    given |= {"hyper_val": hyper_val, "test": test}
    parts = {}
    for name, part in given.items():
        if part is not None:
            if not isinstance(part, tuple | list) or len(part) != 2:
                raise UserError(f"{name}: must be a pair (inputs, labels)")
            parts[name] = Part(*part)
    experiment = make_experiment(config, make_data(parts, config, seed), model, devices)
    temporary = None
    if workdir is None:
        temporary = tempfile.TemporaryDirectory(prefix="reweight_jax_")
        workdir = temporary.name
    loop.train(experiment, workdir, progress=progress)
    return Fitted(workdir, model=model, devices=experiment.devices, temporary=temporary)


def load(workdir: str | os.PathLike, model: Any = None, devices: list | None = None) -> "Fitted":
    """Returns a finished run, of `fit` or of the command line.

    Args:
      workdir: its folder.
      model: the run's model if it is not a built-in one, as it was given to `fit`.
      devices: JAX devices to predict on; all of this process's if None.

    Raises:
      UserError: no finished run, or a model that is not the run's.
    """
    return Fitted(workdir, model=model, devices=devices)


class Fitted:
    """A finished run.

    Attributes:
      workdir: its folder.
      config: its ConfigDict.
      result: the contents of result.json.
      classes: names or values of the K outputs, in their order; () for regression.
      columns: names of the inputs' columns, if they were read from a table; else ().
      examples: dict of numpy arrays, one entry a training example, in the order given: index (row
        in the data), label (as trained on), visits (batches that held it), and means over these
        visits: weight (1 is plain training), margin (above 0 the model agrees with the label), and
        alignment (below 0 a step on it would have raised the clean loss; if the method has a clean
        gradient). NaN before the first visit. Also id and true_label if they are known.
    """

    def __init__(self, workdir, *, model=None, devices=None, temporary=None):
        self.workdir = pathlib.Path(workdir).expanduser()
        self._temporary = temporary  # deletes its folder with this object
        files = {}
        for name in ("config.json", "result.json"):
            try:
                files[name] = json.loads((self.workdir / name).read_text())
            except (OSError, ValueError) as error:
                raise UserError(
                    f"{self.workdir}: no finished run ({name}: {_reason(error)})"
                ) from None
        self.result = files["result.json"]
        self._facts = files["config.json"].pop("dataset")
        self.config = _complete(files["config.json"])
        self.classes = tuple(self._facts["classes"])
        self.columns = tuple(self._facts["columns"])
        with np.load(self.workdir / "examples.npz", allow_pickle=False) as arrays:
            order = np.argsort(arrays["index"], kind="stable")
            self.examples = {name: arrays[name][order] for name in arrays.files}
        self.task = TASKS[self.config.task](self.examples["label"], self._facts["num_outputs"])
        self._devices = list(devices or jax.local_devices())
        if model is None and self.config.model.name == "own":
            raise UserError(f"{self.workdir}: its model is not a built-in one; give model=...")
        self._model = build_model(self.config, self._facts, self._devices, model)
        self.sample = sample_of(self._facts, scaled=False)  # zeros in the form of inputs, [1, ...]
        self._predict = compile_predict(self._model, self._devices)
        self._variables: dict[str, tuple] = {}

    def predict(self, inputs: Any, step: str = "last") -> np.ndarray:
        """Returns probabilities [N, K] (classification, multi_label), or values [N] or [N, D].

        Args:
          inputs: as the training inputs, [N, ...] or a dict of arrays.
          step: "last", or "best" on held-out data, or "finetuned_last", "finetuned_best".

        Raises:
          UserError: inputs unlike the training set's, or a step whose checkpoint cannot be read.
        """
        with prefix("predict"):
            inputs = like_train(
                as_inputs(inputs, "inputs"), sample_of(self._facts, scaled=False), "inputs"
            )
        outputs = self._predict(*self._restore(step), inputs)
        return np.asarray(self.task.predict(outputs))

    def save(self, folder: str | os.PathLike) -> pathlib.Path:
        """Copies the folder of the run to `folder`, which must not exist; returns its path."""
        folder = pathlib.Path(folder).expanduser()
        try:
            return pathlib.Path(shutil.copytree(self.workdir, folder))
        except OSError as error:
            raise UserError(f"{folder}: the run cannot be saved there ({error})") from None

    def _restore(self, name):
        """(params, model_state) of the model at a step of the result."""
        if name not in PHASES or name not in self.result:
            valid = [key for key, value in self.result.items() if key in PHASES]
            raise UserError(f"step: {name!r}; valid: {', '.join(valid)}")
        if name not in self._variables:
            like = jax.eval_shape(self._model.init, jax.random.key(0), sample_of(self._facts))
            step, folder = self.result[name]["step"], self.workdir / "checkpoints"
            self._variables[name] = read_model(folder, step, like, self._devices[0])
        return self._variables[name]


def _complete(saved: dict) -> ConfigDict:
    """The config of config.json; fields that are new since then have their defaults."""
    config = default.get_config()
    config.update(ConfigDict(saved))
    return config


def _reason(error):
    return getattr(error, "strerror", None) or "damaged"
