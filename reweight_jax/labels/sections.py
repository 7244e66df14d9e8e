"""The parts of label_report.html that are not interactive, as HTML: summary, tables, heat map."""

import html
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

NUM_HEAT_CLASSES, NUM_CLASS_ROWS = 12, 200
FEW_CLASSES = 20  # up to here a table has them in their own order
MAIN_SCORES = {"classification": "accuracy", "multi_label": "macro_f1", "regression": "rmse"}
# Of the scores in result.json, in the order of the tables.
PHASES = {
    "last": "last step",
    "best": "best step",
    "warm_up": "after the warm-up",
    "unsettled": "before settling",
    "judge": "the judge of the labels",
    "finetuned_last": "fine-tuned from last",
    "finetuned_best": "fine-tuned from best",
    "plain": "plain training",
    "retrained": "retrained",
    "judge_retrained": "the judge from retrained",
    "finetuned_retrained": "fine-tuned from retrained",
}
SPLITS = {"calibration": "calibration", "hyper_val": "hyper-validation", "test": "test"}
MARGINS = {
    "classification": "How much more probable the given label is than the best other one, as a "
    "difference of log-probabilities. Below 0: the model prefers another label.",
    "multi_label": "The lowest logit of the given tags (minus the logit if a tag is given as "
    "absent). Below 0: the model prefers another state of a tag.",
    "regression": "Minus the distance of the given values from the predicted ones, in standard "
    "deviations of the labels.",
}


def percent(share: float) -> str:
    """Returns a share with three digits: 0.0213 -> 2.13%."""
    return f"{100 * share:.3g}%"


def plural(count: int, noun: str) -> str:
    """Returns 1 label, 2 labels, 1,234 labels."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def summary(examples: dict, judgement: Any, health: Sequence[str]) -> str:
    """Returns the figures, the sentences and the notes at the head of the report."""
    facts = judgement.summary
    size, found, wrong = facts["num_examples"], facts["num_suspects"], facts["wrong"]
    figures = [("training examples", f"{size:,}")]
    figures += [("suspects", f"{found:,} <small>({percent(found / max(size, 1))})</small>")]
    if wrong:
        low, high = percent(wrong["low"]), percent(wrong["high"])
        interval = f" <small>{low} to {high}</small>" if has_interval(facts) else ""
        figures.append(("wrong labels (from below)", f"{percent(wrong['share'])}{interval}"))
    sentences = [guarantee(facts), truth(examples, judgement)]
    notes = [*facts["notes"], *health]
    return "\n".join(
        [
            '<dl class="figures">',
            *(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in figures),
            "</dl>",
            *(f"<p>{html.escape(sentence)}</p>" for sentence in sentences if sentence),
            *(['<ul class="notes" aria-label="Notes">'] if notes else []),
            *(f"<li>{html.escape(note)}</li>" for note in notes),
            *(["</ul>"] if notes else []),
        ]
    )


def has_interval(facts: dict) -> bool:
    """Returns whether the interval of the share of wrong labels says anything.

    Of a model that contradicts right labels it may be narrow, and far too low. And 0% to 0% of one
    that believes all labels only says that no wrong one was seen.
    """
    return bool(facts["wrong"]["high"]) and not facts["contradicted"]


def guarantee(facts: dict) -> str:
    """Returns what is known of false alarms, in words."""
    if facts["rule"] == "margin":  # a note says so
        return ""
    rate, size = percent(facts["rate"]), plural(facts["num_calibration"], "calibration example")
    if facts["rule"] == "false_discovery_rate":
        text = (
            f"On average, at most {rate} of the suspects have a right label (false-discovery rate, "
            f"Benjamini-Hochberg, from {size} that no gradient saw)."
        )
        if facts["by"] == "weighted":
            text += " This is not proved for examples that are weighted."
    else:
        text = (
            f"A right label is flagged with a probability of at most {rate} (false-alarm rate). "
            f"This holds on average over sets of {size} that no gradient saw, if they are drawn "
            "like the right labels of the training set."
        )
        if facts["rate_90"] is not None:
            text += f" For the set at hand, it is at most {percent(facts['rate_90'])}"
            text += " with 90% confidence."
    how = {
        "class": " Each class has its own threshold.",
        "weighted": " The calibration examples are weighted by class, because the classes have "
        "other shares in the training set: the rate holds over all classes together, not in each.",
    }
    text += how.get(facts["by"], "")
    if facts["wrong"]:
        confidence = percent(facts["wrong"]["confidence"])
        if has_interval(facts):
            text += f" The interval of the estimate of wrong labels has {confidence} confidence."
        text += (
            " The estimate leaves out wrong labels that the model believes: the worse the model, "
            "the more."
        )
    return text


def truth(examples: dict, judgement: Any) -> str:
    """Returns how good the list is if the true labels are known, else ""."""
    if "true_label" not in examples:
        return ""
    wrong, is_suspect = is_wrong(examples), judgement.is_suspect
    hits = wrong & is_suspect
    if not wrong.any():
        return ""
    text = f"The true labels are known: {plural(int(wrong.sum()), 'label')} of "
    text += f"{len(wrong):,} are wrong. The suspects include {percent(hits.sum() / wrong.sum())} of"
    text += " them"
    if is_suspect.any():
        text += f"; {percent(hits.sum() / is_suspect.sum())} of the suspects are really wrong"
    if hits.any() and examples["label"].dtype.kind != "f":
        same = judgement.suggested_label[hits] == examples["true_label"][hits]
        right = same.reshape(len(same), -1).all(axis=1).mean()
        text += f", and for {percent(right)} of these the suggestion is the true label"
    return text + "."


def is_wrong(examples: dict) -> np.ndarray:
    """Returns bool [N], which labels differ from the true ones."""
    differs = examples["label"] != examples["true_label"]
    return differs.reshape(len(differs), -1).any(axis=1)


def scores(result: dict, task: str) -> str:
    """Returns the main score of each phase in `result` (of result.json) as a table, or ""."""
    score, names = MAIN_SCORES[task], [name for name in PHASES if name in result]
    splits = [s for s in SPLITS if any(f"{s}_{score}" in result[name] for name in names)]
    if not splits:
        return ""
    shown, rows = ("{:.4g}" if score == "rmse" else "{:.1%}").format, []
    for name in names:
        values = [result[name].get(f"{split}_{score}") for split in splits]
        rows.append([PHASES[name], *("" if value is None else shown(value) for value in values)])
    title = {"macro_f1": "Macro F1", "rmse": "RMSE"}.get(score, score.capitalize())
    return _section(title, _table(["model", *(SPLITS[split] for split in splits)], rows))


def per_class(examples: dict, judgement: Any, classes: tuple, task: str) -> str:
    """Returns a table with a row for each class or tag; "" for regression."""
    if task == "classification":
        found = judgement.summary["per_class"]
        rows = [(entry["label"], entry["examples"], entry["suspects"]) for entry in found]
        header = ["class", "examples", "suspects", "share"]
    elif task == "multi_label":
        label, suspect = examples["label"], judgement.is_suspect[:, None]
        new = judgement.suggested_label
        counts = [label == 1, suspect & (label == 0) & (new == 1)]
        counts += [suspect & (label == 1) & (new == 0)]
        present, add, remove = (each.sum(axis=0).tolist() for each in counts)
        rows = list(zip(range(len(classes)), present, add, remove, strict=True))
        header = ["tag", "examples", "to add", "to take away"]
    else:
        return ""
    note = ""
    if len(rows) > FEW_CLASSES:
        rows = sorted(rows, key=lambda row: -sum(row[2:]))
        note = f"{len(rows[:NUM_CLASS_ROWS])} of {len(rows)}, those with the most suspects first."
        note = f'<p class="muted">{note}</p>'
    cells = []
    for k, examples_of, *counts in rows[:NUM_CLASS_ROWS]:
        row = [_name(classes, k), f"{examples_of:,}", *(f"{count:,}" for count in counts)]
        if task == "classification":
            share = counts[0] / max(examples_of, 1)
            row.append(f'{share:.1%}<meter value="{share:.4f}" aria-hidden="true"></meter>')
        cells.append(row)
    return _section("Classes" if task == "classification" else "Tags", note + _table(header, cells))


def heat_map(pairs: list[dict], classes: tuple) -> str:
    """Returns the pairs given -> suggested of the suspects as a table of buttons, or ""."""
    if not pairs:
        return ""
    involved, counts = Counter(), {}
    for pair in pairs:
        counts[pair["given"], pair["suggested"]] = pair["count"]
        for k in {pair["given"], pair["suggested"]}:
            involved[k] += pair["count"]
    chosen = sorted(k for k, _ in involved.most_common(NUM_HEAT_CLASSES))
    inside = [n for (j, k), n in counts.items() if j in chosen and k in chosen]
    largest, total = max(inside, default=1), sum(counts.values())
    is_long = max(len(str(classes[k])) for k in chosen) > 4
    upright = " upright" if is_long else ""
    lines = ['<div class="scroll"><table class="heat">', '<thead><tr><td class="axis"></td>']
    lines += [f'<td class="axis" colspan="{len(chosen)}">suggested</td></tr>']
    lines += ['<tr><td class="axis">given</td>']
    for k in chosen:
        lines.append(_name(classes, k, f'th scope="col" class="name{upright}"', inner="span"))
    lines.append("</tr></thead><tbody>")
    for j in chosen:
        lines.append("<tr>" + _name(classes, j, 'th scope="row" class="name"'))
        for k in chosen:
            lines.append(_heat_cell(classes, j, k, counts.get((j, k), 0), largest))
        lines.append("</tr>")
    lines.append("</tbody></table></div>")
    note = "Suspects by given and suggested label. Choose a cell to list its examples below."
    if len(involved) > len(chosen):
        note += f" The {len(chosen)} classes with the most suspects; {sum(inside):,} of {total:,}."
    body = f'<p class="muted">{note}</p>' + "\n".join(lines)
    return _section("Given and suggested labels", body)


def _heat_cell(classes, j, k, count, largest):
    if not count:
        return '<td class="same">·</td>' if j == k else "<td></td>"
    level = 1 + round(8 * (count / largest) ** 0.5)
    given, suggested = (html.escape(str(classes[i])) for i in (j, k))
    what = f"{plural(count, 'suspect')}: given {given}, suggested {suggested}"
    return (
        f'<td><button type="button" class="h{level}" data-given="{j}" data-suggested="{k}" '
        f'title="{what}" aria-label="{what}">{count}</button></td>'
    )


def _name(classes, k, tag=None, inner=None):
    """The escaped name of a class, in a cell that may cut it short."""
    name = html.escape(str(classes[k]))
    if tag is None:
        return name
    text = f"<{inner}>{name}</{inner}>" if inner else name
    return f'<{tag} title="{name}">{text}</{tag.split()[0]}>'


def _table(header, rows):
    lines = ['<div class="scroll"><table class="list"><thead><tr>']
    lines += [f'<th scope="col">{name}</th>' for name in header] + ["</tr></thead><tbody>"]
    for name, *cells in rows:
        lines.append(f'<tr><th scope="row" class="name" title="{name}">{name}</th>')
        lines += [f"<td>{cell}</td>" for cell in cells] + ["</tr>"]
    return "\n".join([*lines, "</tbody></table></div>"])


def _section(title, body):
    return f"<section><h2>{title}</h2>{body}</section>"
