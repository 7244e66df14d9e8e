"""Wrong labels in small tables: what the weight decay of own data does, beside cleanlab.

    pip install -e '.[test]' cleanlab && python scripts/benchmarks/small_tables.py

Tables of scikit-learn of 150 to 570 rows, and one of 3,000. A quarter of the labels is moved to any
other class, or 40% of those of all classes but the first one to that. 60 examples are trusted, or a
quarter if that is less; ours keeps half of them to calibrate. Written to
results/labels/small_tables.md and .csv: means over --seeds of P@n (n = number of wrong labels) and
of the accuracy on a fifth of the examples.
"""

import statistics

import numpy as np
from absl import flags
from sklearn import datasets
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from reweight_jax import cli, fit
from reweight_jax.paper import tables
from reweight_jax.paths import expand
from reweight_jax.records.workdir import write_atomically

_SEEDS = flags.DEFINE_integer("seeds", 3, "How many seeds.", lower_bound=1)
_RESULTS = flags.DEFINE_string("results", "results/labels", "Folder of the table.")

NOISES = ("uniform", "one way")
OURS = {"without weight decay": 0.0, "default": -1.0}
CLEANLAB = {
    "cleanlab, logistic regression": lambda: make_pipeline(
        StandardScaler(), LogisticRegression(max_iter=1_000)
    ),
    "cleanlab, gradient boosting": HistGradientBoostingClassifier,
}


def sets() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Returns name -> (inputs, right labels)."""
    diabetes = datasets.load_diabetes()
    made = datasets.make_classification(
        3_000, 30, n_informative=10, n_classes=3, class_sep=1.0, random_state=0
    )
    return {
        "iris": datasets.load_iris(return_X_y=True),
        "wine": datasets.load_wine(return_X_y=True),
        "breast cancer": datasets.load_breast_cancer(return_X_y=True),
        "diabetes, above 140": (diabetes.data, (diabetes.target > 140).astype(int)),
        "made, 30 columns": made,
    }


def noisy(right: np.ndarray, noise: str, rng) -> np.ndarray:
    """Returns labels of which some are wrong."""
    classes = right.max() + 1
    if noise == "uniform":
        other = (right + rng.integers(1, classes, len(right))) % classes
        return np.where(rng.random(len(right)) < 0.25, other, right)
    return np.where((rng.random(len(right)) < 0.4) & (right > 0), 0, right)


def precision(quality: np.ndarray, wrong: np.ndarray) -> float:
    """Returns P@n of a quality [N], low for suspects."""
    return float(wrong[np.argsort(quality, kind="stable")[: wrong.sum()]].mean())


def measure(inputs, right, noise: str, seed: int) -> dict[str, tuple[float, float]]:
    """Returns method -> (P@n, test accuracy); the accuracy of what only makes lists is NaN."""
    from cleanlab.rank import get_label_quality_scores

    rng = np.random.default_rng(seed)
    order = rng.permutation(len(right))
    given, num_trusted = noisy(right, noise, rng), min(60, len(right) // 4)
    trusted, others = order[:num_trusted], order[num_trusted:]
    test, train = others[: len(right) // 5], others[len(right) // 5 :]
    clean, calibration = np.array_split(trusted, 2)
    wrong, scores = given[train] != right[train], {}
    parts = {"clean": clean, "calibration": calibration, "test": test}
    parts = {name: (inputs[rows], right[rows]) for name, rows in parts.items()}
    for name, decay in OURS.items():
        options = {"seed": seed, "weight_decay": decay, "progress": False}
        run = fit(None, (inputs[train], given[train]), **parts, **options)
        suspects, place = run.suspects()["index"], np.empty(len(train))
        place[np.asarray(suspects)] = np.arange(len(train))
        scores[name] = precision(place, wrong), run.result["last"]["test_accuracy"]
    rows = np.concatenate([train, trusted])  # they learn from all trusted examples
    label = np.concatenate([given[train], right[trusted]])
    for name, make in CLEANLAB.items():
        probability = cross_val_predict(make(), inputs[rows], label, cv=5, method="predict_proba")
        quality = get_label_quality_scores(given[train], probability[: len(train)])
        scores[name] = precision(quality, wrong), float("nan")
    return scores


def main():
    folder = cli.make_folder("--results", expand(_RESULTS.value))
    methods, rows, lines = [*OURS, *CLEANLAB], [], []
    for name, (inputs, right) in sets().items():
        for noise in NOISES:
            runs = [measure(inputs, right, noise, seed) for seed in range(_SEEDS.value)]
            cells = [f"{name}, {len(right)}, {noise}"]
            for method in methods:
                pairs = zip(*(run[method] for run in runs), strict=True)
                found, accuracy = map(statistics.fmean, pairs)
                row = {"data_set": name, "noise": noise, "method": method, "seeds": len(runs)}
                rows.append(row | {"precision_at_n": found, "test_accuracy": accuracy})
                cells.append(f"{found:.3f}" + (f" / {accuracy:.3f}" if method in OURS else ""))
            lines.append(cells)
            print(" | ".join(cells), flush=True)
    head = ["set, examples, noise", *methods]
    write_atomically(folder / "small_tables.md", tables.markdown(head, lines))
    write_atomically(folder / "small_tables.csv", tables.to_csv(rows))


if __name__ == "__main__":
    cli.run(main)
