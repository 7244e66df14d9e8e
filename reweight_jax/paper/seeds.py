"""What many seeds of one run have come to together."""

from reweight_jax.paper.tables import mean_and_interval, percent
from reweight_jax.records import report


def summarize(results: list[dict]) -> dict:
    """Returns the results of S seeds as one, with the scores of a single result.json.

    Its scores are means over the seeds, and "intervals" has half their 95% confidence intervals
    (Student's t). What differs by seed, as the confusion matrices, is left to the single results.
    """
    first = results[0]
    summary = {
        name: first[name] for name in ("config", "variant", "method", "dataset", "num_steps")
    }
    summary["seeds"] = [result["seed"] for result in results]
    intervals = {}
    for group, scores in first.items():
        if group == "weights" or (isinstance(scores, dict) and "test_error" in scores):
            both = {
                name: mean_and_interval([result[group][name] for result in results])
                for name in scores
                if name != "step" and all(name in result[group] for result in results)
            }
            summary[group] = {name: mean for name, (mean, _) in both.items()}
            intervals[group] = {name: half for name, (_, half) in both.items()}
    summary["intervals"] = intervals
    alike = ("seconds", "steps_per_second", "device", "versions")
    return summary | {name: first[name] for name in alike}


def table(summary: dict) -> str:
    """The lines that a run of many seeds ends with."""
    seeds, intervals = summary["seeds"], summary["intervals"]
    dataset = f"{summary['dataset']} ({summary['config']}:{summary['variant']})"
    rows = [("method", summary["method"]), ("dataset", dataset)]
    rows.append(("seeds", f"{seeds[0]} to {seeds[-1]}, mean ± 95% interval"))
    for group, scores in intervals.items():
        if group != "weights":
            name = {"last": "last step", "best": "best on hyper-validation"}.get(group, group)
            both = summary[group]["test_error"], scores["test_error"]
            rows.append((f"test error, {name}", f"{percent(*both)}%"))
    for name, key in report.WEIGHT_ROWS.items():
        if key in summary["weights"]:
            both = summary["weights"][key], intervals["weights"][key]
            rows.append((name, "{:.4f} ± {:.4f}".format(*both)))
    speed = f"{summary['seconds']:.0f} s, {summary['steps_per_second']:.1f} steps/s of all seeds"
    rows.append(("time", speed))
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)
