"""label_report.html: one file, without a network, to look at the suspects and to decide."""

import base64
import hashlib
import html
import importlib.resources
import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from reweight_jax.data.corrections import in_utf8
from reweight_jax.data.examples import map_inputs
from reweight_jax.labels import sections
from reweight_jax.labels.calibrated import scores
from reweight_jax.labels.shown import page_json, shown_inputs
from reweight_jax.labels.suspects import (
    actions,
    label_names,
    suspects_csv,
    suspects_table,
)

MAX_BYTES = 4_800_000  # of the whole file
MAX_CARD_BYTES = 20_000  # of what is shown of one example's inputs
MAX_TEXT_BYTES = 3_000_000  # of what is shown of the labels: many tags may leave room for fewer
NUM_CARDS = 200


def listed(examples: dict, judgement: Any) -> np.ndarray:
    """Returns the positions of the examples that the page lists, worst first: int, at most 200.

    Trusted examples that were trained on are not among them: their labels are not to be decided on.
    """
    order = judgement.order
    if "is_trusted" in examples:
        order = order[~examples["is_trusted"][order]]
    return order[:NUM_CARDS]


def pages(config, result, examples, judgement, inputs, rows) -> dict[str, bytes]:
    """Returns suspects.csv and label_report.html: name -> content.

    `config` is the content of config.json; the other arguments are those of `report_html`.
    """
    classes, columns = (tuple(config["dataset"][name]) for name in ("classes", "columns"))
    page = report_html(
        examples,
        judgement,
        task=config["task"],
        classes=classes,
        columns=columns,
        inputs=inputs,
        rows=rows,
        title=f"Label report: {config['name']}",
        health=result.get("health", ()),
        result=result,
    )
    table = suspects_csv(suspects_table(examples, judgement, classes))
    # A file name need not be valid text.
    return {"suspects.csv": table, "label_report.html": page.encode(errors="replace")}


def report_html(
    examples: dict,
    judgement: Any,
    *,
    task: str,
    classes: tuple = (),
    columns: tuple[str, ...] = (),
    inputs: Any = None,
    rows: np.ndarray | None = None,
    title: str = "Label report",
    health: Sequence[str] = (),
    result: dict | None = None,
) -> str:
    """Returns the report as one HTML page of at most 5 MB that loads nothing.

    Args:
      examples: the arrays of examples.npz.
      judgement: the `quality.Judgement` of these examples.
      task: a key of TASKS.
      classes: names of the classes or tags; () for regression.
      columns: names of the features, if the inputs are a table.
      inputs: array [R, ...] or dict of arrays, of the examples `rows`; None: none are shown.
      rows: int [R], positions in `examples`. Of the examples that are `listed`, inputs are shown of
        those that are among them.
      title: of the page.
      health: sentences for its head, after the judgement's notes.
      result: the contents of result.json, for the table of scores.
    """
    listed_rows = listed(examples, judgement)
    cards = _cards(examples, judgement, listed_rows, task)
    cards = cards[: np.searchsorted(np.cumsum([len(page_json(c)) for c in cards]), MAX_TEXT_BYTES)]
    listed_rows = listed_rows[: len(cards)]
    parts = {
        "title": html.escape(title),
        "summary": sections.summary(examples, judgement, health),
        "sections": _sections(examples, judgement, classes, task, result),
        "num_cards": str(len(cards)),
        "rest": _rest(judgement, listed_rows),
        "margin_meaning": sections.MARGINS.get(task, ""),
        "style": _resource("report.css"),
        "script": _resource("report.js"),
    }
    content = {"key": _key(examples), "task": task, "classes": [in_utf8(name) for name in classes]}
    page = _resource("report_template.html")
    parts["policy"] = _policy(parts["style"], parts["script"])
    used = len(page) + len(page_json(content | {"cards": cards}))
    used += sum(len(text.encode(errors="replace")) for text in parts.values())
    room = min(MAX_BYTES - used, MAX_CARD_BYTES * len(cards))
    for card in cards:
        card["inputs"] = []
    if inputs is not None and rows is not None:
        _, places, saved = np.intersect1d(listed_rows, rows, return_indices=True)
        inputs = map_inputs(lambda array: np.asarray(array)[saved], inputs)
        shown = shown_inputs(inputs, columns, max_bytes=room) if len(saved) else []
        for place, blocks in zip(places, shown, strict=True):
            cards[place]["inputs"] = blocks
    parts["data"] = page_json(content | {"cards": cards})
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], page)


def _sections(examples, judgement, classes, task, result):
    tables = sections.per_class(examples, judgement, classes, task)
    tables += sections.scores(result, task)
    heat = sections.heat_map(judgement.summary.get("pairs") or [], classes)
    return f'<div class="columns"><div>{tables}</div>{heat}</div>'


def _rest(judgement, rows):
    left = int(judgement.is_suspect.sum() - judgement.is_suspect[rows].sum())
    if not left:
        return "suspects.csv has all examples."
    return (
        f"The other {sections.plural(left, 'suspect')} are in suspects.csv, which can be given "
        "instead: it drops or relabels all suspects."
    )


def _cards(examples, judgement, rows, task):
    """What the page knows of each listed example, as JSON."""
    given, suggested = examples["label"][rows], judgement.suggested_label[rows]
    margin, is_suspect = scores(examples), judgement.is_suspect[rows]
    texts = {"given": _codes(given, task), "suggested": _codes(suggested, task)}
    if "true_label" in examples and sections.is_wrong(examples).any():
        texts["truth"] = _codes(examples["true_label"][rows], task)
    numbers = {
        "q": judgement.label_quality,
        "m": margin,
        "a": examples.get("alignment"),
        "p": judgement.p_value,
        "w": examples.get("weight"),
        "v": examples["visits"],
    }
    what = actions(given, suggested, is_suspect).tolist()
    cards = []
    for i, row in enumerate(rows.tolist()):
        card = {"index": int(examples["index"][row]), "suspect": bool(is_suspect[i])}
        if "id" in examples:
            card["id"] = in_utf8(examples["id"][row])
        card |= {name: values[i] for name, values in texts.items()}
        card |= {name: _number(values, row) for name, values in numbers.items()}
        cards.append(card | {"action": what[i]})
    return cards


def _number(values, row):
    value = math.nan if values is None else float(values[row])
    return float(f"{value:.4g}") if math.isfinite(value) else None


def _codes(labels, task):
    """Labels as the page has them: a class, lists of tags, or the text of numbers; None if none."""
    if task == "regression":
        names = [n if isinstance(n, str) else f"{n:.9g}" for n in label_names(labels, ())]
        return [None if "nan" in name else name for name in names]
    if task == "multi_label":
        states = {"present": labels == 1, "unknown": labels < 0}
        return [
            {s: np.flatnonzero(states[s][i]).tolist() for s in states} for i in range(len(labels))
        ]
    return [k if k >= 0 else None for k in labels.tolist()]


def _key(examples):
    """What the browser keeps the decisions under: other labels or another run, another key."""
    digest = hashlib.sha256()
    for name in ("index", "label", "margin"):
        digest.update(np.ascontiguousarray(examples[name]).tobytes())
    return digest.hexdigest()[:24]


def _policy(style, script):
    """Only the page's own style and script are let run, and nothing is loaded."""
    hashes = {
        name: base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        for name, text in (("style", style), ("script", script))
    }
    sources = "; ".join(f"{name}-src 'sha256-{value}'" for name, value in hashes.items())
    return f"default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; {sources}"


def _resource(name):
    return (importlib.resources.files(__package__) / name).read_text(encoding="utf-8")
