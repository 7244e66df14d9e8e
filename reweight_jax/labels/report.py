"""label_report.html: one file, without a network, to look at the suspects and to decide."""

import base64
import hashlib
import html
import importlib.resources
import math
import re
from typing import Any

import jax
import numpy as np

from reweight_jax.data.corrections import in_utf8
from reweight_jax.labels import sections
from reweight_jax.labels.calibrated import scores
from reweight_jax.labels.shown import page_json, shown_inputs
from reweight_jax.labels.suspects import (
    actions,
    label_names,
    suspects_csv,
    suspects_table,
)

MAX_BYTES = 4_400_000  # of labels and pictures; what else a page has is far below 600 kB
MAX_TEXT_BYTES = 1_900_000  # of the labels: many tags may leave room for fewer
MAX_CARD_BYTES = 20_000  # of the pictures of one example
NUM_CARDS = 200


def listed(examples: dict, judgement: Any) -> np.ndarray:
    """Returns the positions of the examples that the page lists, worst first: int, at most 200.

    Trusted examples that were trained on are not among them: their labels are not to be decided on.
    """
    order = judgement.order
    if "is_trusted" in examples:
        order = order[~examples["is_trusted"][order]]
    return order[:NUM_CARDS]


def pages(config, result, examples, judgement, inputs=None, rows=None) -> dict[str, bytes]:
    """Returns suspects.csv and label_report.html, one page that loads nothing: name -> content.

    Args:
      config, result: the contents of config.json and result.json.
      examples: the arrays of examples.npz.
      judgement: the `quality.Judgement` of these examples.
      inputs: array [R, ...] or dict of arrays, of the examples `rows`; None: none are shown.
      rows: int [R], positions in `examples`; inputs are shown of those that are `listed`.
    """
    facts, task, listed_rows = config["dataset"], config["task"], listed(examples, judgement)
    classes, columns = tuple(facts["classes"]), tuple(facts["columns"])
    earlier = config["data"]["corrections"]  # they are to be applied before
    cards = _cards(examples, judgement, listed_rows, task)
    sizes = np.cumsum([len(page_json(card)) for card in cards])
    sizes = sizes[sizes < MAX_TEXT_BYTES]
    cards, listed_rows = cards[: len(sizes)], listed_rows[: len(sizes)]
    data = {"key": _key(examples), "task": task, "classes": list(map(in_utf8, classes))}
    if inputs is not None and rows is not None:
        _, places, saved = np.intersect1d(listed_rows, rows, return_indices=True)
        inputs = jax.tree.map(lambda array: np.asarray(array)[saved], inputs)
        room = MAX_BYTES - len(page_json(data | {"cards": cards}))
        each = min(room // max(len(cards), 1), MAX_CARD_BYTES)
        shown = shown_inputs(inputs, columns, max_bytes=each) if len(saved) else ()
        for place, blocks in zip(places, shown, strict=True):
            cards[place]["inputs"] = blocks
    tables = sections.per_class(examples, judgement, classes, task)
    tables += sections.scores(result, task)
    heat = sections.heat_map(judgement.summary.get("pairs", ()), classes)
    style, script = _resource("report.css"), _resource("report.js")
    parts = {
        "title": html.escape(f"Label report: {config['name']}"),
        "summary": sections.summary(examples, judgement, result.get("health", ())),
        "sections": f'<div class="columns"><div>{tables}</div>{heat}</div>',
        "num_cards": str(len(cards)),
        "rest": _rest(judgement, listed_rows),
        "corrections": html.escape(",".join(filter(None, [earlier, "decisions.csv"]))),
        "margin_meaning": sections.MARGINS[task],
        "style": style,
        "script": script,
        "policy": _policy(style, script),
        "data": page_json(data | {"cards": cards}),
    }
    page = _resource("report_template.html")
    page = re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], page)
    table = suspects_csv(suspects_table(examples, judgement, classes))
    # A file name need not be valid text.
    return {"suspects.csv": table, "label_report.html": page.encode(errors="replace")}


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
    what = actions(judgement, examples["label"], rows).tolist()
    cards = []
    for i, row in enumerate(rows.tolist()):
        card = {"index": int(examples["index"][row]), "suspect": bool(is_suspect[i]), "inputs": []}
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
