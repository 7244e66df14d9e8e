"""What was decided about training labels: rows to drop, to relabel and to trust, from CSV files.

A file is a run's suspects.csv, the decisions.csv of its report or of choose_trusted.py, or one
written by hand. It has a header line and these columns; others are not read:

- index: the row of the training set, from 0, as in examples.npz;
- decision and new_label, or, if there is no column decision, action and suggested_label. A decision
  is keep (or an empty cell), drop, relabel, clean or calibration. The last two move the row to that
  part. They and relabel take the label from new_label, also if it is the given one; of tags, an
  empty cell means that none holds. An action on a trusted example is not taken, and a decision
  about one is an error;
- given_label, and id or file, if they are there: what the row holds. They are compared with the
  data, so that a file cannot be applied to other data than it was made for.

A label is the name of a class; the tags that hold, separated by ;, with ?NAME for one that is not
known (multi_label); a number, or several separated by ; (regression).
"""

import collections
import difflib
import os
import pathlib
import re
import unicodedata
from collections.abc import Callable, Container, Iterable
from typing import Any

import numpy as np

from reweight_jax.data.examples import Examples, concatenate
from reweight_jax.data.tables import INTEGER, Table, read_table
from reweight_jax.data.targets import listed
from reweight_jax.errors import UserError
from reweight_jax.paths import expand

TRUSTED = ("clean", "calibration")
DECISIONS = ("keep", "drop", "relabel", *TRUSTED)
COLUMNS = (("decision", "new_label"), ("action", "suggested_label"))
ID_COLUMNS = ("id", "file")
OTHER_DATA = "the file was made for other data, or for labels with injected noise"
# A spreadsheet runs such a cell as a formula, so it is written with an apostrophe before it.
FORMULA = re.compile(r"'*[=+\-@\t\r]")
NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")


def correct(
    train: Examples, files: str, classes: tuple, ids: np.ndarray | None, size: int
) -> tuple[Examples, dict[str, Examples], dict]:
    """Drops and relabels training examples, or moves them to a trusted part, as the files say.

    Args:
      train: the whole training part of the source, numbered from 0.
      files: paths of CSV files, separated by commas. Each applies to what the one before it leaves.
      classes: names or values of the classes or tags; () for regression.
      ids: str [size], names of the rows of all parts but test, train's first; or None.
      size: how many rows these parts have.

    Returns:
      (the examples that are left, those of each trusted part, counts): they keep their `index`, the
      row in the source. A new label is taken to be right, so it is the true_label too, if true
      labels are known. counts: {"dropped": n, "relabelled": n, "trusted": n}, the last if there are
      such. A row that is relabelled with the label it has is not counted.

    Raises:
      UserError: a malformed file, or one that was made for other data; it names the line.
    """
    num_train, counts = train.size, {"dropped": 0, "relabelled": 0}
    trusted: dict[str, Examples] = {}
    for path in split_paths(files):
        table = read_table(path)
        moved = {int(index) for part in trusted.values() for index in part.index}
        part, label = _decided(table, train, num_train, classes, ids, size, moved)
        is_new = np.any((label != train.label).reshape(train.size, -1), axis=1)
        counts["relabelled"] += int(np.sum(is_new & (part == "relabel")))
        counts["dropped"] += int(np.sum(part == "drop"))
        true_label = train.true_label
        if true_label is not None:
            chosen = is_new.reshape(-1, *[1] * (label.ndim - 1))
            true_label = np.where(chosen, label, true_label)
        train = train._replace(label=label, true_label=true_label)
        for name in TRUSTED:
            if (part == name).any():
                chosen = train.take(np.flatnonzero(part == name))
                trusted[name] = concatenate(trusted[name], chosen) if name in trusted else chosen
        is_kept = np.isin(part, ("keep", "relabel"))
        if not is_kept.all():
            train = train.take(np.flatnonzero(is_kept))
        if not train.size:
            raise UserError(f"{path}: leaves no training example")
    if trusted:
        counts["trusted"] = sum(part.size for part in trusted.values())
    return train, trusted, counts


def _decided(table, train, num_train, classes, ids, size, moved):
    """What becomes of each example, str [n] of DECISIONS, and its label then, as a table says."""
    decision, new_label = next((pair for pair in COLUMNS if pair[0] in table.cells), COLUMNS[0])
    decisions, _ = map(table.column, (decision, new_label))
    rows = find_rows(table, train, num_train, classes, ids, size, moved)
    part, label = np.full(train.size, "keep", "U11"), train.label.copy()
    parse = label_parser(classes, train.label)
    for line, (row, cell) in enumerate(zip(rows, decisions, strict=True)):
        what = cell.strip().lower() or "keep"
        if what not in DECISIONS:
            valid = f"must be {', '.join(DECISIONS[:-1])} or {DECISIONS[-1]}"
            raise UserError(f"{table.at(line, decision)}: {cell!r}; {valid}")
        if what == "keep" or (row < 0 and decision == "action"):
            continue  # a list of suspects may name trusted examples that a run also trained on
        if row < 0:
            index = table.cells["index"][line]
            raise UserError(
                f"{table.at(line, 'index')}: {index} is a trusted or held-out example, which is "
                "not in the training set; mend it in its own file"
            )
        part[row] = what
        if what != "drop":
            label[row] = parse_cell(table, line, new_label, parse)
    return part, label


def split_paths(files: str) -> list[pathlib.Path]:
    """Returns the paths in a list separated by commas, with ~ expanded."""
    if os.path.exists(whole := os.path.expanduser(files)):  # a comma may be part of a name
        return [pathlib.Path(whole)]
    return [expand(name.strip()) for name in files.split(",") if name.strip()]


def find_rows(
    table: Table,
    train: Examples,
    num_train: int,
    classes: tuple,
    ids: np.ndarray | None,
    size: int,
    moved: Container[int] = (),
) -> np.ndarray:
    """Returns the row of `train` that each line of a table names, int [L]; -1 for other parts.

    Args:
      table: with a column index; id (or file) and given_label are checked if they are there.
      train: examples with ascending `index`, of the rows 0..num_train-1 of the source.
      num_train: rows of the source's training part.
      classes, ids, size: as in `correct`.
      moved: rows of the source that have become trusted examples.

    Raises:
      UserError: an index that is doubled or no row of the data, or another id or label there.
    """
    rows, seen = np.full(len(table.lines), -1), {}
    parse = label_parser(classes, train.label)
    id_column = next((name for name in ID_COLUMNS if name in table.cells), None)
    for line, cell in enumerate(map(str.strip, table.column("index"))):
        index = int(cell) if INTEGER.fullmatch(cell) else -1
        if not 0 <= index < size:
            valid = f"must be a row of the training set, 0..{num_train - 1}"
            raise UserError(f"{table.at(line, 'index')}: {cell!r}; {valid}")
        if index in seen:
            first = table.lines[seen[index]]
            raise UserError(f"{table.at(line, 'index')}: {index} is in line {first} too")
        seen[index] = line
        written = plain_text(table.cells[id_column][line]) if id_column else ""
        true_id = "" if ids is None else str(ids[index])
        if written and in_utf8(written) != in_utf8(true_id):
            in_data = f"is {true_id!r}" if true_id else "has no name"
            raise UserError(
                f"{table.at(line, id_column)}: {written!r}, but row {index} of the data {in_data}; "
                f"{OTHER_DATA}"
            )
        if index >= num_train or index in moved:
            continue
        row = int(np.searchsorted(train.index, index))
        if row == train.size or train.index[row] != index:
            raise UserError(
                f"{table.at(line, 'index')}: {index} is not in the training set any more; a "
                "correction before this one drops or moves it"
            )
        given = table.cells["given_label"][line] if "given_label" in table.cells else None
        if given is not None and not _is_label(given, train.label[row], parse):
            (in_data,) = label_texts(train.label[row : row + 1], classes)
            raise UserError(
                f"{table.at(line, 'given_label')}: {given!r}, but row {index} of the data has "
                f"{in_data!r}; {OTHER_DATA}"
            )
        rows[line] = row
    return rows


# --- Labels and cells as text ---------------------------------------------------------------------


def label_texts(labels: np.ndarray, classes: tuple) -> list[str]:
    """Returns labels as they are written in CSV files; "" for a class that is none (-1).

    `labels` are as in `Examples.label`. A number is the shortest one that is read back as the same.
    """
    if not classes:
        return [";".join(map(str, row)) for row in labels.reshape(len(labels), -1)]
    names = [*map(str, classes), ""]  # -1 takes the last
    if labels.ndim == 1:
        return [names[k] for k in labels.tolist()]
    return [
        ";".join(names[k] if row[k] > 0 else f"?{names[k]}" for k in np.flatnonzero(row))
        for row in labels
    ]


def label_parser(classes: tuple, labels: np.ndarray) -> Callable[[str], Any]:
    """Returns text -> a label like a row of `labels`; it raises ValueError for any other text."""
    written = collections.Counter(map(in_utf8, classes))
    known = {in_utf8(name): k for k, name in enumerate(classes) if written[in_utf8(name)] == 1}
    known |= {str(name): k for k, name in enumerate(classes)}

    def parse_class(text):
        return _find(known, text, "no class")

    def parse_tags(text):
        label = np.zeros(len(classes), labels.dtype)
        for tag in filter(str.strip, text.split(";")):
            is_unknown = tag not in known and tag.strip().startswith("?")
            tag = tag.strip()[1:] if is_unknown else tag
            label[_find(known, tag, "no tag")] = -1 if is_unknown else 1
        return label

    def parse_numbers(text):
        try:
            values = np.array([float(number) for number in text.split(";")], labels.dtype)
        except ValueError:
            raise ValueError(f"{text!r} is not a number") from None
        if values.size != labels[0].size or not np.isfinite(values).all():
            raise ValueError(f"{text!r}; must be {labels[0].size} finite numbers, separated by ;")
        return values.reshape(labels.shape[1:])

    if not classes:
        return parse_numbers
    return parse_class if labels.ndim == 1 else parse_tags


def parse_cell(table: Table, line: int, column: str, parse: Callable[[str], Any]) -> Any:
    """Returns `parse` of a cell; UserError that names its line."""
    try:
        return parse(plain_text(table.cells[column][line]))
    except ValueError as error:
        raise UserError(f"{table.at(line, column)}: {error}") from None


def plain_text(cell: str) -> str:
    """Returns what a cell holds that may have been written by `guarded`."""
    return cell[1:] if cell.startswith("'") and FORMULA.match(cell) else cell


def in_utf8(name: Any) -> str:
    """Returns a name as files in UTF-8 have it: a file name need not be valid text."""
    return str(name).encode(errors="replace").decode()


def guarded(text: str) -> str:
    """Returns the text, after an apostrophe if a spreadsheet would run it as a formula."""
    return f"'{text}" if FORMULA.match(text) and not NUMBER.fullmatch(text) else text


def to_csv(header: Iterable[str], rows: Iterable[Iterable]) -> str:
    """Returns a CSV file in which no cell is run as a formula by a spreadsheet."""
    rows = (header, *rows)
    return "".join(",".join(quoted(guarded(str(cell))) for cell in row) + "\n" for row in rows)


def quoted(text: str) -> str:
    """Returns a cell of a CSV file; `csv` before Python 3.13 leaves a carriage return unquoted."""
    return '"' + text.replace('"', '""') + '"' if any(mark in text for mark in ',"\r\n') else text


def _is_label(text, label, parse):
    try:
        value = parse(plain_text(text))
    except ValueError:
        return False
    if label.dtype.kind == "f":  # written with nine digits, of which a spreadsheet leaves fewer
        return np.allclose(value, label, rtol=1e-5, atol=0)
    return np.array_equal(value, label)


def _find(known, text, what):
    """Returns known[text]; spaces around it, and upper case, do not matter if it is still clear."""
    text = unicodedata.normalize("NFC", text)  # as names of classes are
    for key in (text, text.strip()):
        if key in known:
            return known[key]
    alike = [name for name in known if name.lower() == text.strip().lower()]
    if len(alike) == 1:
        return known[alike[0]]
    near = difflib.get_close_matches(text.strip(), known, 1)
    hint = f"did you mean {near[0]}?" if near else f"valid: {listed(list(known))}"
    raise ValueError(f"{text!r} is {what}; {hint}")
