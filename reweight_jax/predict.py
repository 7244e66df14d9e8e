"""Predictions of a finished run as a CSV file.

    python -m reweight_jax.predict --workdir=DIR --input=FILE_OR_FOLDER --output=predictions.csv

The input is an npz file (the array `input`), a CSV file with the training set's columns, an image,
or a folder of images. --config=FILE.py is for what the config file adds, such as a model of your
own. The output has a line for each example: its id (file name or row), the
prediction, and the probability of each class or tag.
"""

import numpy as np
from absl import flags

from reweight_jax import api, cli
from reweight_jax.data import corrections
from reweight_jax.data.files import read_inputs
from reweight_jax.errors import UserError
from reweight_jax.records.workdir import write_atomically

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a finished run.")
_INPUT = flags.DEFINE_string("input", None, "npz, CSV or image file, or a folder of images.")
_OUTPUT = flags.DEFINE_string("output", "predictions.csv", "CSV file to write.")
_STEP = flags.DEFINE_enum("step", "last", list(api.PHASES), "Which step of the run predicts.")
# Parsing the flag runs the file, which may add a model to MODELS.
cli.define_config("The run's config file, if that is what defines its model.")


def to_csv(run: api.Fitted, ids: np.ndarray, values: np.ndarray) -> str:
    """Returns the predictions as CSV text.

    Args:
      run: the finished run.
      ids: str [N].
      values: as `Fitted.predict` returns them.

    Returns:
      Columns id, prediction, p(<class>) for classification; id, tags (those above 0.5, separated by
      ;), p(<tag>) for multi_label; id, prediction (or prediction_0, ...) without classes.
    """
    names = [str(name) for name in run.classes]
    header, rows = ["id"], [[name] for name in ids]
    if not run.classes:
        values = values.reshape(len(values), -1)
        many = values.shape[1] > 1
        header += [f"prediction_{k}" for k in range(values.shape[1])] if many else ["prediction"]
    else:
        is_tags = run.config.task == "multi_label"
        header += ["tags" if is_tags else "prediction", *(f"p({name})" for name in names)]
        for row, p in zip(rows, values, strict=True):
            chosen = np.flatnonzero(p > 0.5) if is_tags else [p.argmax()]
            row.append(";".join(names[k] for k in chosen))
    for row, numbers in zip(rows, values, strict=True):
        row += [f"{number:.6g}" for number in numbers]
    return corrections.to_csv(header, rows)


def main():
    for flag in (_WORKDIR, _INPUT):
        if not flag.value:
            raise UserError(f"--{flag.name} is missing")
    run = api.load(_WORKDIR.value)
    output = cli.output_file("--output", _OUTPUT.value)
    inputs, ids = read_inputs(_INPUT.value, run.config.data, run.sample, run.columns)
    text = to_csv(run, ids, run.predict(inputs, _STEP.value))
    write_atomically(output, text.encode(errors="replace"))  # a file name need not be valid text
    print(f"{len(ids)} predictions: {output}")


if __name__ == "__main__":
    cli.run(main)
