"""Classifiers of iris flowers: the choice of one, and what it is set to.

After Optuna's example "sklearn_simple.py", which optimizes a classifier configuration for the Iris dataset:
https://github.com/optuna/optuna-examples/blob/main/sklearn/sklearn_simple.py

Kept: the data, both classifiers, all ranges, three folds, and the accuracy to be maximised. Other than there, a round
draws its own folds and its own forest, by its seed, so that the accuracy has a spread; and workers take the place of
`n_jobs=-1`.
"""

from __future__ import annotations

from typing import Any

from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.svm import SVC


def objective(params: dict[str, Any], seed: int) -> float:
    """Returns the accuracy, from 0 to 1, as the mean over three folds."""
    if params["classifier"] == "SVC":
        classifier = SVC(C=params["svc_c"], gamma="auto")
    else:
        classifier = RandomForestClassifier(max_depth=params["rf_max_depth"], n_estimators=10, random_state=seed)
    folds = StratifiedKFold(3, shuffle=True, random_state=seed)
    return cross_val_score(classifier, *load_iris(return_X_y=True), cv=folds).mean()
