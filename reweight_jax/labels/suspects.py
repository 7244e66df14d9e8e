"""suspects.csv: every training example, the worst label first, and what could be done about it.

A name that a spreadsheet would run as a formula (a file =1+1.png) begins with an apostrophe, which
`data.corrections.plain_text` takes away.
"""

from typing import Any

import numpy as np

from reweight_jax.data.corrections import guarded, label_texts, quoted
from reweight_jax.labels.calibrated import scores


def suspects_table(examples: dict, judgement: Any, classes: tuple) -> dict[str, list]:
    """Returns the columns of suspects.csv, worst first; a pandas.DataFrame can be made of it.

    Args:
      examples: the arrays of examples.npz. Labels are int [N] for classification, int [N, K] of
        0, 1 and -1 (not known) for multi_label, and float [N] or [N, D] for regression.
      judgement: a `quality.Judgement` of these examples.
      classes: names of the classes or tags; () for regression.

    Returns:
      name -> list of N values; docs/labels.md says what each means. id is left out if the data has
      no names; labels are as `label_texts` writes them; a quantity that is not known is NaN.
    """
    order = judgement.order
    given, suggested = examples["label"][order], judgement.suggested_label[order]
    numbers = {
        "label_quality": judgement.label_quality,
        "p_value": judgement.p_value,
        "is_suspect": judgement.is_suspect,
        "margin": scores(examples),
        "alignment": examples.get("alignment"),
        "weight": examples.get("weight"),
        "visits": examples["visits"],
    }
    table = {"index": examples["index"][order].tolist()}
    if "id" in examples:
        table["id"] = examples["id"][order].astype(str).tolist()
    table["given_label"] = label_names(given, classes)
    table["suggested_label"] = label_names(suggested, classes)
    for name, values in numbers.items():
        missing = values is None
        table[name] = [np.nan] * len(order) if missing else np.asarray(values)[order].tolist()
    table["action"] = actions(judgement, examples["label"], order).tolist()
    return table


def label_names(labels: np.ndarray, classes: tuple) -> list:
    """Returns `label_texts` of N labels; those of a regression of one value as floats."""
    texts = label_texts(labels, classes)
    return list(map(float, texts)) if labels.dtype.kind == "f" and labels[0].size == 1 else texts


def actions(judgement: Any, label: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Returns what corrections should do with some rows: str [R] of keep, relabel and drop.

    A suspect is not relabelled by a model that contradicts many right labels.
    """
    given, suggested = label[rows], judgement.suggested_label[rows]
    if suggested.dtype.kind == "f":
        usable = np.isfinite(suggested)
    else:  # -1 is no class, but a tag that is not known
        usable = suggested >= (0 if suggested.ndim == 1 else -1)
    size = len(rows)
    is_new = np.any((given != suggested).reshape(size, -1), axis=1)
    is_new &= np.all(usable.reshape(size, -1), axis=1)
    is_new &= not judgement.summary.get("contradicted", False)
    return np.where(judgement.is_suspect[rows], np.where(is_new, "relabel", "drop"), "keep")


def suspects_csv(table: dict[str, list]) -> bytes:
    """Returns the table as CSV in UTF-8: NaN is an empty cell, a number has 6 digits, a label 9."""
    digits = {name: 9 if name.endswith("_label") else 6 for name in table}
    columns = [_cells(values, digits[name]) for name, values in table.items()]
    lines = [",".join(table), *map(",".join, zip(*columns, strict=True)), ""]
    return "\n".join(lines).encode(errors="replace")  # a file name need not be valid text


def _cells(values, digits):
    """The cells of a column; each different text is quoted once."""
    if values and isinstance(values[0], float):
        return ["" if value != value else f"{value:.{digits}g}" for value in values]
    if values and isinstance(values[0], str):
        cell_of = {text: quoted(guarded(text)) for text in set(values)}
        return [cell_of[text] for text in values]
    return list(map(str, values))
