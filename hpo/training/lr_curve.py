"""What a learning-rate range test found: its curves of loss against rate, and the rates that they suggest.

The rate is raised exponentially, batch after batch, and the loss of each batch recorded: Smith's range test ("Cyclical
learning rates for training neural networks", 2017; he raised it linearly and watched the accuracy), as fastai's learner
has it. Report A takes "the mean learning rate at which the loss reaches its
minimum over 10 rounds" (section III.C, figure 2); that is `LRCurve.optima` and their mean.

A curve is a sequence of rates and one of losses of the same length; losses from the step on at which a round diverged
are not finite, and nothing is concluded from them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LOW, HIGH, STEPS = 1e-4, 1.0, 100  # of the test that a listed trial leaves its rate to
SMOOTHING = 0.9  # of the exponential mean that slopes are read from: a batch's loss is too noisy
# Times the noise of a batch: a curve that falls by less is flat. Of 24 range tests at rates below 1e-6 none fell by
# more than 1.5 times, of 18 that found a rate none by less than 3 (fnn and cnn_bn, 6 to 100 steps, 1 to 10 rounds).
LEAST_FALL = 2.0


@dataclass(frozen=True)
class LRCurve:
    """The curves of R rounds over S rates.

    Attributes:
        rates: (S,), ascending.
        losses: (R, S), each batch's loss before its step; not finite from where a round diverged.
    """

    rates: Floats
    losses: Floats

    @property
    def optima(self) -> list[float]:
        """The rate at each round's lowest loss; NaN for a round that diverged before there was a second."""
        return [minimum(self.rates, curve) for curve in self.losses]

    @property
    def mean(self) -> float:
        """The mean of the optima that there are: report A's rule; NaN where every round diverged at once."""
        return float(np.mean(self._known)) if self._known else math.nan

    @property
    def std(self) -> float | None:
        """Their deviation; None for a single one."""
        return float(np.std(self._known, ddof=1)) if len(self._known) > 1 else None

    @property
    def _known(self) -> list[float]:
        return [rate for rate in self.optima if math.isfinite(rate)]

    @property
    def mean_losses(self) -> Floats:
        """The mean curve (S,), as far as no round has diverged."""
        return np.asarray(self.losses.mean(axis=0))

    @property
    def ended(self) -> int:
        """How many rounds diverged before the last rate."""
        return int((~np.isfinite(self.losses)).any(axis=1).sum())


def spaced_rates(low: float, high: float, steps: int) -> Floats:
    """Returns `steps` rates from low to high, evenly spaced in their logarithm."""
    return np.geomspace(low, high, steps)


def minimum(rates: Floats, losses: Floats) -> float:
    """Returns the rate at the lowest loss, as it was measured; NaN where less than two are finite."""
    finite = np.isfinite(losses)
    return float(rates[np.argmin(np.where(finite, losses, np.inf))]) if finite.sum() > 1 else math.nan


def steepest(rates: Floats, losses: Floats) -> float:
    """Returns the rate at which the smoothed loss falls fastest, over the logarithm of the rate."""
    finite = _smooth(_cut(losses))
    if len(finite) < 2:
        return float(rates[0])
    return float(rates[int(np.argmin(np.gradient(finite, np.log(rates[: len(finite)]))))])


def valley(rates: Floats, losses: Floats) -> float:
    """Returns the rate in the middle of the longest valley: the longest falling subsequence of the smoothed loss.

    After fastai's suggestion of that name.
    """
    finite = _smooth(_cut(losses))
    length, start = np.ones(len(finite), dtype=int), np.arange(len(finite))
    for i in range(1, len(finite)):
        above = np.flatnonzero(finite[:i] > finite[i])
        if len(above):
            best = above[np.argmax(length[above])]
            length[i], start[i] = length[best] + 1, start[best]
    end = int(np.argmax(length))
    return float(rates[(start[end] + end) // 2])


def falls(losses: Floats) -> bool:
    """Says whether the smoothed loss falls by more than what batches differ by."""
    finite = _cut(losses)
    if len(finite) < 3:
        return False
    # Second differences have nothing of a steady fall, and the variance of a batch six times; the median tells a normal
    # deviation, and is not moved by a cliff.
    noise = float(np.median(np.abs(np.diff(finite, 2)))) / (0.6745 * math.sqrt(6))
    smoothed = _smooth(finite)
    return float(smoothed[0] - smoothed.min()) > LEAST_FALL * max(noise, 1e-6 * abs(float(finite[0])))  # float32's own


def bounds(rates: Floats, losses: Floats) -> tuple[float, float]:
    """Returns the rates between which a search is worth its trials.

    From where the smoothed loss has fallen by a tenth of all that it falls, to where it is last below the half.
    """
    finite = _smooth(_cut(losses))
    fall = finite[0] - finite.min()
    low = int(np.argmax(finite <= finite[0] - 0.1 * fall))
    high = int(np.flatnonzero(finite <= finite[0] - 0.5 * fall)[-1])
    return float(rates[low]), float(rates[max(low, high)])


def _cut(losses: Floats) -> Floats:
    """Returns a curve up to where it is not finite any more."""
    bad = np.flatnonzero(~np.isfinite(losses))
    return losses[: bad[0]] if len(bad) else losses


def _smooth(losses: Floats) -> Floats:
    """Returns the exponential mean, corrected for its beginning at zero."""
    mean, smoothed = 0.0, []
    for step, loss in enumerate(losses, start=1):
        mean = SMOOTHING * mean + (1 - SMOOTHING) * float(loss)
        smoothed.append(mean / (1 - SMOOTHING**step))
    return np.array(smoothed)


def describe_curve(curve: LRCurve, optimizer: str) -> dict[str, Any]:
    """Returns a curve as JSON has it, in studies and from `hpo lr-find --json`; what is not finite is null."""
    return {
        "optimizer": optimizer,
        "rates": curve.rates.tolist(),
        "losses": [_nulled(curve) for curve in curve.losses.tolist()],
        "optima": _nulled(curve.optima),
        "mean": curve.mean if math.isfinite(curve.mean) else None,
        "std": curve.std,
    }


def _nulled(values: Sequence[float]) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values]


def from_json(stored: Mapping[str, Any]) -> LRCurve:
    """Returns the curve that `describe_curve` has described."""
    return LRCurve(np.array(stored["rates"], dtype=float), np.array(stored["losses"], dtype=float))
