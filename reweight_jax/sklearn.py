"""scikit-learn estimators over `reweight_jax.fit`, for tables of numbers with doubtful labels.

For example:

    model = ReweightClassifier(random_state=0).fit(X, y, X_clean, y_clean)
    model.predict(X_new)
    suspects = np.argsort(model.run_.examples["margin"])  # labels to check by hand first

Both take the parameters of `reweight_jax.fit` that matter most, and the others as `fields`.
"""

import warnings
from dataclasses import KW_ONLY, dataclass
from numbers import Integral
from typing import Any

import jax
import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils import check_consistent_length, check_random_state
from sklearn.utils.multiclass import check_classification_targets, unique_labels
from sklearn.utils.validation import check_array, check_is_fitted, column_or_1d, validate_data

from reweight_jax.api import fit
from reweight_jax.data.targets import class_values, encode_classes, listed
from reweight_jax.errors import choose
from reweight_jax.methods import METHODS
from reweight_jax.train.evaluate import EVAL_BATCH_SIZE

FLOATS = [np.float64, np.float32]  # fit says if a column cannot become float32
_SHARED = """
    Parameters:
      model: None, an MLP; or what `reweight_jax.fit` takes as its model, for inputs float32 [n, D].
      method: a name in `reweight_jax.methods.METHODS`. "reweight" needs `X_clean` and `y_clean`;
        "baseline" is plain training, and trains on the clean examples too if they are given.
      num_steps: training steps.
      batch_size: training examples in a step.
      clean_batch_size: clean examples in a step; all of them if there are fewer.
      learning_rate: of Adam at the first step; it falls to zero along a cosine.
      hidden: units of the MLP's hidden layers, or of its only one.
      standardize: whether to standardise the features by the training set's mean and deviation.
      fields: dict of more fields of configs/default.py, as `reweight_jax.fit` takes them; or None.
      random_state: int, `RandomState` or None: draws the initialisation and the batches.
      verbose: whether to show a progress bar.

    Attributes:
      n_features_in_, feature_names_in_: of X.
      sample_weight_: float [N], the mean weight of each example of X over the batches that held it,
        1 in plain training; NaN if none held it.
      result_: scores and times, as in result.json.
      run_: `reweight_jax.Fitted`, with `examples`, `suspects`, `save`, and predictions of other
        steps, such as "best" and "retrained"; those of the estimator are of the last step.

    It trains on the first of JAX's devices. A fitted estimator can be pickled, and then predicts;
    for suspects and reports `run_.save` the folder of the run before.
    """


@dataclass(eq=False, repr=False)
class _Reweight(BaseEstimator):
    __doc__ = "What classifier and regressor share: parameters, training and outputs.\n" + _SHARED

    model: Any = None
    _: KW_ONLY
    method: str = "reweight"
    num_steps: int = 2_000
    batch_size: int = 100
    clean_batch_size: int = 100
    learning_rate: float = 1e-3
    hidden: tuple[int, ...] = (256, 256)
    standardize: bool = True
    fields: dict | None = None
    random_state: Any = None
    verbose: bool = False

    def _check_clean(self, X_clean, y_clean):
        """Returns X_clean as floats; None if there is no clean set, which the method may need."""
        method = choose("method", self.method, METHODS)
        if (X_clean is None) != (y_clean is None):
            raise ValueError("X_clean, y_clean: give both or neither")
        if X_clean is not None:
            given, X_clean = X_clean, check_array(X_clean, dtype=FLOATS, input_name="X_clean")
            validate_data(self, given, reset=False, skip_check_array=True)
            check_consistent_length(X_clean, y_clean)
        elif method.needs_clean or method.trains_on_clean:
            raise ValueError(
                f"X_clean, y_clean: method={self.method!r} needs examples whose labels are right, "
                "fit(X, y, X_clean, y_clean), and draws none from labels of unknown quality; "
                "method='baseline' needs none"
            )
        return X_clean

    def _train(self, task, X, y, clean):
        """Trains on X, floats, y and `clean`, a pair of these or None."""
        fields = dict(self.fields or {})
        data = {"standardize": self.standardize} | dict(fields.pop("data", {}))
        for name in data.keys() & {"classes", "num_classes"}:
            raise ValueError(f"fields: data: {name}: the classes are those of y and y_clean")
        hidden = (self.hidden,) if isinstance(self.hidden, Integral) else tuple(self.hidden)
        options = {
            "clean": clean and (self._named(clean[0]), clean[1]),
            "task": task,
            "method": self.method,
            "seed": check_random_state(self.random_state).randint(1 << 31),
            "devices": jax.local_devices()[:1],
            "progress": bool(self.verbose),
            "plots": False,
            "num_steps": self.num_steps,
            "batch_size": self.batch_size,
            "clean_batch_size": self.clean_batch_size,
            "learning_rate": self.learning_rate,
            "data": data,
            "model_fields": {"hidden": hidden} | dict(fields.pop("model_fields", {})),
        }
        for name in options.keys() & fields.keys():
            raise ValueError(f"fields: {name} is set by the parameters of {type(self).__name__}")
        self.run_ = fit(self.model, (self._named(X), y), **options, **fields)
        self.result_, examples = self.run_.result, self.run_.examples
        is_given = examples["index"] < len(X)  # a clean set that is also trained on comes after X
        self.sample_weight_ = np.full(len(X), np.nan)
        self.sample_weight_[examples["index"][is_given]] = examples["weight"][is_given]
        return self

    def _named(self, X):
        """X as a DataFrame, if it was one, so that `run_` also takes columns by their names."""
        if not hasattr(self, "feature_names_in_"):
            return X
        try:
            import pandas
        except ImportError:  # it was one of polars
            return X
        return pandas.DataFrame(X, columns=self.feature_names_in_)

    def _predict(self, X):
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=FLOATS)
        # Always padded to one size: a prediction depends on no other row, not even its rounding.
        return self.run_.predict(self._named(X), batch_size=EVAL_BATCH_SIZE)


class ReweightClassifier(ClassifierMixin, _Reweight):
    __doc__ = (
        "A classifier for labels that may be wrong, with the help of a few trusted ones.\n"
        + _SHARED
        + "\n    `classes_` are the labels of y and y_clean, sorted.\n    "
    )

    def fit(self, X, y, X_clean=None, y_clean=None):
        """Trains on X [N, D] and y [N]; the labels of X_clean [M, D] and y_clean [M] are right."""
        y = _of_objects("y", y)
        X, y = validate_data(self, X, y, dtype=FLOATS)
        y_clean = _of_objects("y_clean", y_clean)
        X_clean = self._check_clean(X_clean, y_clean)
        labels = [y] if X_clean is None else [y, column_or_1d(y_clean, warn=True)]
        for values in labels:
            check_classification_targets(values)
        self.classes_ = unique_labels(*labels)
        if len(labels) > 1 and len(new := np.setdiff1d(labels[1], y)):
            warnings.warn(
                f"y_clean: no example of y has the label {listed(new)}; check the spelling. "
                "cross_val_predict(method='predict_proba') changes the labels of y to 0..K-1, and "
                "y_clean must have these then",
                stacklevel=2,
            )
        if len(self.classes_) < 2:
            raise ValueError(
                f"y: has only one class, {self.classes_[0]!r}; a classifier needs two classes"
            )
        # The outputs of `fit` are sorted as it writes labels, which may have another form.
        self._outputs = encode_classes({"train": self.classes_}, 0, ())[0]["train"]
        if len(set(self._outputs)) < len(self.classes_):
            raise ValueError("y: two labels look the same and differ in their Unicode form")
        # Each in the type of classes_: bools of one may be integers of the other.
        y, *rest = (self.classes_[np.searchsorted(self.classes_, values)] for values in labels)
        return self._train("classification", X, y, (X_clean, *rest) if rest else None)

    def predict_proba(self, X):
        """Returns the probabilities of `classes_`, float32 [n, K]."""
        return self._predict(X)[:, self._outputs]

    def predict(self, X):
        """Returns the most probable class of each row, [n]."""
        index = self.predict_proba(X).argmax(axis=1)
        return self.classes_[index]


class ReweightRegressor(RegressorMixin, _Reweight):
    __doc__ = (
        "A regressor for targets that may be wrong, with the help of a few trusted ones.\n"
        + _SHARED
    )

    def fit(self, X, y, X_clean=None, y_clean=None):
        """Trains on X [N, D] and y [N] or [N, targets]; X_clean and y_clean can be trusted."""
        X, y = validate_data(self, X, y, dtype=FLOATS, multi_output=True, y_numeric=True)
        X_clean = self._check_clean(X_clean, y_clean)
        if X_clean is None:
            return self._train("regression", X, y, None)
        y_clean = check_array(y_clean, ensure_2d=False, input_name="y_clean")
        return self._train("regression", X, y, (X_clean, y_clean))

    def predict(self, X):
        """Returns the values of each row, float64 [n] or [n, targets]."""
        return self._predict(X).astype(np.float64)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


def _of_objects(name, labels):
    """Numbers among Python objects as an array of these; ValueError if a label is missing."""
    values = np.asarray(labels)
    if values.dtype.kind != "O" or values.ndim not in (1, 2):
        return labels
    known = class_values(name, values)
    return labels if known.dtype.kind == "U" else known
