"""CSV tables as data sets: numeric features, or paths of image files."""

import csv
import pathlib
import re
from typing import NamedTuple

import numpy as np

from reweight_jax.data import images
from reweight_jax.data.examples import Part
from reweight_jax.errors import UserError, one_line
from reweight_jax.paths import open_regular

FILE_COLUMN = "file"
FLAGS = {"1": True, "true": True, "yes": True, "1.0": True}
FLAGS |= {"0": False, "false": False, "no": False, "0.0": False}
# 007 and 1_5 are names, though Python would take both for numbers.
INTEGER = re.compile(r"-?(0|[1-9]\d*)")
NUMBER = re.compile(r"[+-]?((0|[1-9]\d*)(\.\d*)?|\.\d+)([eE][+-]?\d+)?")


class Table(NamedTuple):
    """A CSV file: its column names, its cells by column, and the line of each row."""

    path: pathlib.Path
    cells: dict[str, list[str]]
    lines: list[int]

    def numbers(self, column: str) -> np.ndarray:
        """Returns a column as float64 [N]; UserError that names the line of any other cell."""
        values = np.array([_number(cell) for cell in self.cells[column]])
        row = int(np.argmin(np.isfinite(values)))
        if np.isfinite(values[row]):
            return values
        cell = self.cells[column][row]
        what = f"{cell!r} is not a number" if cell.strip() else "an empty cell"
        raise UserError(
            f"{self.at(row, column)}: {what}; mend it, or leave the column out: "
            f"config.data.ignore_columns=({column!r},)"
        )

    def column(self, name: str) -> list[str]:
        """Returns the cells of a column; UserError that lists all columns if it is not there."""
        if name not in self.cells:
            found = ", ".join(self.cells)
            raise UserError(f"{self.path}: no column {name!r}; found: {found}{separated(found)}")
        return self.cells[name]

    def at(self, row: int, column: str) -> str:
        """Returns where a cell is, for messages."""
        return f"{self.path}, line {self.lines[row]}, column {column}"

    def take(self, rows: np.ndarray) -> "Table":
        """Returns the table with some of the rows."""
        cells = {name: [column[row] for row in rows] for name, column in self.cells.items()}
        return Table(self.path, cells, [self.lines[row] for row in rows])


def separated(header: str) -> str:
    """Returns what to say of a header that other characters than commas seem to separate."""
    return "; cells must be separated by commas" if ";" in header or "\t" in header else ""


def read_csv(fields) -> dict[str, Part]:
    """Reads CSV files with a header line: config.data.path, and clean_path, calibration_path,
    test_path with the same columns.

    The labels are in config.data.label_column; several names, separated by commas, give [N, K],
    with NaN for an empty cell. config.data.clean_column marks the trusted rows of the training
    file. If there is a column `file`, the inputs are image files, relative to the folder of the CSV
    file; otherwise all other columns are numbers, float32 [N, D]. config.data.ignore_columns are
    not read; any other column is an error. `Part.id` is the file, or the line in the CSV file.
    """
    tables = {split: read_table(path) for split, path in images.part_paths(fields, "file").items()}
    train = tables["train"]
    label_columns = find_label_columns(train, fields.label_column)
    ignored = set(fields.ignore_columns)
    for name in [*fields.ignore_columns, *filter(None, [fields.clean_column])]:
        train.column(name)
    rest = [c for c in train.cells if c not in {*label_columns, *ignored, fields.clean_column}]
    columns = [FILE_COLUMN] if FILE_COLUMN in rest else rest
    unread = [name for name in rest if name not in columns]
    if unread:
        raise UserError(
            f"{train.path}: with a column {FILE_COLUMN}, nothing reads the column {unread[0]}; "
            f"config.data.ignore_columns=({', '.join(map(repr, unread))},)"
        )
    if not columns:
        raise UserError(f"{train.path}: no column is left for the inputs")
    for split, table in tables.items():
        needed = [*label_columns, *columns]
        lacking = [name for name in needed if name not in table.cells]
        extra = [n for n in table.cells if n not in {*needed, *ignored, fields.clean_column}]
        for names, what in ((lacking, "lacks the column"), (extra, "has one more column,")):
            if names:
                raise UserError(f"{table.path}: {what} {names[0]}, compared with {train.path}")
        if not table.lines:
            raise UserError(f"{table.path}: has no row; config.data.{images.split_field(split)}")
    if fields.clean_column:
        if "clean" in tables:
            raise UserError("config.data.clean_path and clean_column: set one of the two")
        cells = train.cells[fields.clean_column]
        marks = [FLAGS.get(cell.strip().lower() or "0") for cell in cells]
        if None in marks:
            where = train.at(row := marks.index(None), fields.clean_column)
            valid = "0 or 1 (true, false, yes, no), or empty, which is 0"
            raise UserError(f"{where}: {cells[row]!r}; must be {valid}")
        is_clean = np.array(marks)
        if is_clean.all() or not is_clean.any():
            which = "every row" if is_clean.all() else "no row"
            raise UserError(f"{train.path}: column {fields.clean_column} marks {which} as trusted")
        tables["train"] = train.take(np.flatnonzero(~is_clean))
        tables["clean"] = train.take(np.flatnonzero(is_clean))
    inputs, ids = _csv_inputs(tables, columns, fields)
    labels = _csv_labels(tables, label_columns)
    tags = tuple(label_columns) if len(label_columns) > 1 else ()
    names = () if columns == [FILE_COLUMN] else tuple(columns)
    return {s: Part(inputs[s], labels[s], ids[s], names, tags) for s in tables}


def read_table(path: pathlib.Path) -> Table:
    """Reads a CSV file: UTF-8, comma-separated, the first line names the columns.

    Blank lines are skipped. UserError if it is missing, ragged or not text.
    """
    try:
        with open_regular(path, "r", newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            rows = [(reader.line_num, row) for row in reader if row]
    except OSError as error:
        raise UserError(f"{path}: no readable file ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not text in UTF-8 ({one_line(error)})") from None
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: not CSV ({error})") from None
    if not rows:
        raise UserError(f"{path}: is empty")
    header = [name.strip() for name in rows[0][1]]
    if "" in header:
        raise UserError(
            f"{path}: column {header.index('') + 1} has no name; name it, or leave it out (of "
            "pandas' to_csv with index=False)"
        )
    doubled = [name for name in header if header.count(name) > 1]
    if doubled:
        raise UserError(f"{path}: two columns are named {doubled[0]!r}")
    for line, row in rows[1:]:
        if len(row) != len(header):
            column = header[len(row)] if len(row) < len(header) else "none"
            hint = f"; column {column} is missing" if len(row) < len(header) else ""
            if any(";" in name for name in header):
                hint += "; cells must be separated by commas, and decimals have a point"
            raise UserError(
                f"{path}, line {line}: has {len(row)} cells, but there are {len(header)} columns"
                + hint
            )
    cells = {name: [row[i] for _, row in rows[1:]] for i, name in enumerate(header)}
    return Table(path, cells, [line for line, _ in rows[1:]])


def find_label_columns(table: Table, label_column: str) -> list[str]:
    """Returns the names of the label columns: one, or several separated by commas."""
    found = ", ".join(table.cells)
    if not label_column:
        raise UserError(f"config.data.label_column: empty; columns of {table.path}: {found}")
    names = [label_column]
    if label_column not in table.cells:
        names = [name.strip() for name in label_column.split(",")]
    for name in names:
        if name not in table.cells:
            raise UserError(
                f"config.data.label_column: no column {name!r} in {table.path}; "
                f"found: {found}{separated(found)}"
            )
    return names


def _csv_inputs(tables, columns, fields):
    """Returns (inputs, ids), both by split."""
    if columns == [FILE_COLUMN]:
        files = {split: table.cells[FILE_COLUMN] for split, table in tables.items()}
        paths = {
            split: [tables[split].path.parent / name for name in files[split]] for split in files
        }
        ids = {split: np.array(names) for split, names in files.items()}
        return images.open_images(paths, fields.image_size, fields.resident), ids
    inputs, ids = {}, {}
    for split, table in tables.items():
        inputs[split] = np.stack([table.numbers(name) for name in columns], axis=1)
        # Lines of two files share numbers.
        start = "" if table.path == tables["train"].path else f"{table.path.name}:"
        ids[split] = np.array([f"{start}{line}" for line in table.lines])
    return inputs, ids


def _csv_labels(tables, columns):
    """Returns labels by split: [N] of one type for all splits, or float64 [N, K]."""
    if len(columns) > 1:
        return {
            split: np.stack([_tags(table, name) for name in columns], axis=1)
            for split, table in tables.items()
        }
    (column,) = columns
    for table in tables.values():
        for row, cell in enumerate(table.cells[column]):
            if not cell.strip():
                raise UserError(f"{table.at(row, column)}: no label; give one, or remove the row")
    every = [cell.strip() for table in tables.values() for cell in table.cells[column]]
    kind = str
    if all(map(NUMBER.fullmatch, every)):
        kind = int if all(map(INTEGER.fullmatch, every)) else float
    return {
        split: np.array([kind(cell.strip()) for cell in table.cells[column]])
        for split, table in tables.items()
    }


def _tags(table, column):
    """Returns a column of tags or numbers, float64 [N], with NaN for empty cells."""
    cells = [cell.strip() for cell in table.cells[column]]
    values = np.array([FLAGS.get(cell.lower(), _number(cell)) for cell in cells], np.float64)
    for row in np.flatnonzero(np.isnan(values)):
        if cells[row].lower() not in ("", "na", "nan", "+nan", "-nan"):
            where = table.at(row, column)
            raise UserError(f"{where}: {cells[row]!r}; must be 0, 1, a number, or empty")
    return values


def _number(cell):
    try:
        return np.nan if "_" in cell else float(cell)
    except ValueError:
        return np.nan
