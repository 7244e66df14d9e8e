"""Section 4.1: a table of test error by imbalance ratio."""

import pathlib

from reweight_jax.paper import published, tables


def collect(folder: pathlib.Path) -> list[dict]:
    """Returns `rows_of` the finished runs under `folder`."""
    return rows_of(tables.read_runs(folder))


def rows_of(finished: list[tuple[dict, dict]]) -> list[dict]:
    """Returns one row per (ratio, method, setting) of finished runs, (config.json, result.json).

    Errors are fractions; intervals are of the mean over seeds (`tables.mean_and_interval`).
    """
    runs = []
    for config, result in finished:
        names = {
            "imbalance_ratio": config["data"]["imbalance_ratio"],
            "method": result["method"],
            "num_steps": result["num_steps"],
        }
        runs.append((names, tables.settings(config, finetuned=False), result))
    rows = []
    for names, results in tables.group(runs):
        last, interval = tables.mean_and_interval([r["last"]["test_error"] for r in results])
        best, best_interval = tables.mean_and_interval([r["best"]["test_error"] for r in results])
        scores = {"seeds": len(results), "test_error": last, "ci95": interval}
        scores |= {"best_test_error": best, "best_ci95": best_interval}
        rows.append(names | scores | tables.speed(results))
    return sorted(rows, key=lambda r: (r["imbalance_ratio"], *_order(r), r["num_steps"]))


def to_markdown(rows: list[dict]) -> str:
    """Returns a table of test errors in percent: methods down, ratios across."""
    ratios = sorted({row["imbalance_ratio"] for row in rows})
    lines = []
    for method, setting in dict.fromkeys(line_of(row) for row in sorted(rows, key=_order)):
        cells = [tables.line_label(method, setting)]
        for ratio in ratios:
            place = ratio, method, setting
            in_cell = [r for r in rows if (r["imbalance_ratio"], *line_of(r)) == place]
            cells.append("<br>".join(_cell(row) for row in in_cell))
        lines.append(cells)
    return tables.markdown(["method", *(f"{ratio:g}:1" for ratio in ratios)], lines)


def line_of(row: dict) -> tuple[str, str]:
    """Returns (method, setting): the rows that make a line of the imbalance table or figure."""
    return row["method"], row["setting"]


def _order(row):
    method, setting = line_of(row)
    return tables.rank(method, published.IMBALANCE_METHODS), method, setting


def _cell(row):
    seeds = f"{row['seeds']} seed{'s' if row['seeds'] > 1 else ''}"
    return f"{tables.percent(row['test_error'], row['ci95'])} ({seeds}, {row['num_steps']:,} steps)"
