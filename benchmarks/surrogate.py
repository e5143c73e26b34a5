"""A stand-in for measuring: learning curves of any configuration of the cnn space, predicted from the recorded ones.

    python -m benchmarks.surrogate         # how well it predicts what it was not fitted to

A regression of the logarithm of the mean error after each epoch on the configuration: its choices as zeros and ones,
the logarithm of the learning rate, ELU's alpha. Networks with and without an auxiliary loss are fitted apart: without
one the error by recognition is at chance level.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import ExtraTreesRegressor, RandomForestRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, Matern, WhiteKernel
from sklearn.model_selection import KFold

from benchmarks.curves import Curve, load_curves

Array = NDArray[np.float64]

CHOICES: Mapping[str, Sequence[Any]] = {
    "architecture": ("fnn", "cnn", "cnn_bn"),
    "weight_sharing": (True, False),
    "auxiliary_loss": (True, False),
    "activation": ("relu", "leaky_relu", "elu", "selu"),
    "optimizer": ("sgd", "rmsprop", "adam"),
}
FOLDS = 10


def features(params: Mapping[str, Any]) -> Array:
    """Returns a configuration as numbers, (F,)."""
    chosen = [float(params[name] == value) for name, values in CHOICES.items() for value in values]
    rate = np.log10(params["learning_rate"])
    # Where a rate is good depends on the optimizer, so each has the rate in a column of its own.
    rates = [rate if params["optimizer"] == optimizer else -2.0 for optimizer in CHOICES["optimizer"]]
    return np.array([*chosen, *rates, params.get("elu_alpha", 1.0) - 1.0])


def _forest() -> Any:
    return RandomForestRegressor(n_estimators=300, min_samples_leaf=1, random_state=0)


def _trees() -> Any:
    return ExtraTreesRegressor(n_estimators=300, min_samples_leaf=1, random_state=0)


def _process(kernel: Any) -> Any:
    widths = np.ones(len(features(load_curves()[0].params)))
    whole = ConstantKernel(1.0) * kernel(length_scale=widths, length_scale_bounds=(0.1, 100.0)) + WhiteKernel(0.01)
    return GaussianProcessRegressor(whole, normalize_y=True, n_restarts_optimizer=0, random_state=0)


MODELS: Mapping[str, Callable[[], Any]] = {
    "random forest": _forest,
    "extremely randomised trees": _trees,
    "Gaussian process, RBF": lambda: _process(RBF),
    "Gaussian process, Matérn 5/2": lambda: _process(lambda **widths: Matern(nu=2.5, **widths)),
}
BEST = "Gaussian process, Matérn 5/2"  # by cross-validation, where there is an auxiliary loss


class Surrogate:
    """Predicts learning curves."""

    def __init__(self, curves: Sequence[Curve], model: str = BEST) -> None:
        self._models = {}
        for flag in (True, False):
            part = [curve for curve in curves if curve.params["auxiliary_loss"] == flag]
            if part:
                x, y = np.stack([features(curve.params) for curve in part]), np.log([c.means for c in part])
                with warnings.catch_warnings():
                    # A width at its bound: the feature does nothing.
                    warnings.simplefilter("ignore", ConvergenceWarning)
                    self._models[flag] = MODELS[model]().fit(x, y)

    def curve(self, params: Mapping[str, Any]) -> Array:
        """Returns the mean error after each epoch, in percent, (25,)."""
        predicted = self._models[bool(params["auxiliary_loss"])].predict(features(params)[None])[0]
        return np.asarray(np.exp(predicted))


def cross_validate(curves: Sequence[Curve], model: str) -> tuple[Array, Array]:
    """Returns the last errors that were measured and those predicted by models that had not seen them, (N,) each."""
    measured, predicted = [], []
    for seen, unseen in KFold(FOLDS, shuffle=True, random_state=0).split(curves):
        surrogate = Surrogate([curves[i] for i in seen], model)
        measured += [curves[i].means[-1] for i in unseen]
        predicted += [surrogate.curve(curves[i].params)[-1] for i in unseen]
    return np.array(measured), np.array(predicted)


def main() -> None:
    """Prints the error of each model, where it was not fitted."""
    curves = [curve for curve in load_curves() if curve.params["auxiliary_loss"]]
    print(f"{len(curves)} configurations with an auxiliary loss, {FOLDS} folds; last errors in percent\n")
    print("| model | median error | of those below 5 %: median error | rank correlation |")
    print("|---|---|---|---|")
    for model in MODELS:
        measured, predicted = cross_validate(curves, model)
        wrong, good = np.abs(predicted - measured), measured < 5
        ranks = np.corrcoef(measured.argsort().argsort(), predicted.argsort().argsort())[0, 1]
        print(f"| {model} | {np.median(wrong):.2f} | {np.median(wrong[good]):.2f} | {ranks:.2f} |", flush=True)


if __name__ == "__main__":
    main()
