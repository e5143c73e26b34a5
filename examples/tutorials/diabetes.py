"""Gradient boosting of the progress of diabetes, which is pruned between its trees.

After scikit-learn's example "Gradient Boosting regression":
https://scikit-learn.org/stable/auto_examples/ensemble/plot_gradient_boosting_regression.html

Kept: the data, a tenth of it for testing, 500 trees, the squared error, and the four parameters, whose values there are
within the ranges here. Other than there, the error is measured while the trees grow, fifty at a time, and each round
tests on another tenth. The plots are those of `hpo report`; how important features are is not asked here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sklearn.datasets import load_diabetes
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.metrics import mean_squared_error
from sklearn.model_selection import train_test_split


def objective(params: dict[str, Any], seed: int) -> Iterator[float]:
    """Yields the mean squared error on the test set, after each fifty of 500 trees."""
    x, y = load_diabetes(return_X_y=True)
    x_train, x_test, y_train, y_test = train_test_split(x, y, test_size=0.1, random_state=seed)
    model = GradientBoostingRegressor(**params, warm_start=True, random_state=seed)
    for trees in range(50, 501, 50):
        model.set_params(n_estimators=trees).fit(x_train, y_train)
        yield mean_squared_error(y_test, model.predict(x_test))
