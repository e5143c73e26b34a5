"""Examples with numbers for targets: the mean squared error, and its root in the target's own unit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hpo.errors import DatasetError
from hpo.study.task import Metric
from hpo.tasks.arrays import Examples
from hpo.tasks.supervised import Supervised

if TYPE_CHECKING:
    from torch import Tensor

WORST = 10.0  # deviations of the target: what an error counts as, at most


class Regression(Supervised):
    """Squared error; in the target's own unit, its root over the test examples, and the mean absolute error."""

    @property
    def outputs(self) -> int:
        """How many numbers a target is."""
        return int(self._y.shape[1])

    @property
    def metrics(self) -> Sequence[Metric]:
        """RMSE and MAE, no more than ten deviations of the target."""
        worst = float(WORST * np.sqrt((self._y.std(0) ** 2).mean()))
        return (
            Metric("rmse", "test RMSE", "root mean squared error", unit="", high=worst, worst=worst),
            Metric("mae", "test MAE", "mean absolute error", unit="", high=worst, worst=worst),
        )

    def targets(self, examples: Examples) -> Any:
        """Returns targets (N, T).

        Raises:
            DatasetError: where they are no numbers.
        """
        if examples.y.dtype.kind not in "biuf":
            raise DatasetError(f"{self.settings.data}: targets must be numbers, but are such as {examples.y[0]!r}")
        y = examples.y.reshape(len(examples.y), -1).astype(np.float64)
        if not (y.std(0) > 0).all():
            raise DatasetError(f"{self.settings.data}: a target is always the same")
        return y

    def target_tensors(self, train: Any, test: Any) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Returns the standardised targets (N, T), and their deviations again for each example."""
        import torch

        mean, deviation = train.mean(0), np.where(train.std(0) > 0, train.std(0), 1.0)
        parts = []
        for part in (train, test):
            scaled = torch.from_numpy(((part - mean) / deviation).astype(np.float32))
            parts.append((scaled, torch.from_numpy(deviation.astype(np.float32)).expand(len(part), -1)))
        return parts[0], parts[1]

    def loss(self, output: Tensor, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """Returns the mean squared error of outputs (B, T), or (B,) for one number, of standardised targets."""
        return (self._shaped(output, batch[1]) - batch[1]).square().mean()

    def errors(self, output: Tensor, batch: tuple[Tensor, Tensor, Tensor]) -> Mapping[str, Tensor]:
        """Returns both errors, in the target's unit."""
        worst = self.metrics[0].worst
        off = (self._shaped(output, batch[1]).double() - batch[1]) * batch[2]  # (N, T)
        return {"rmse": off.square().mean().sqrt().clamp(max=worst), "mae": off.abs().mean(-1).clamp(max=worst)}

    def influences(self, output: Tensor, batch: tuple[Tensor, Tensor, Tensor]) -> Mapping[str, Tensor]:
        """Returns by how much the RMSE grows with each example (N,): its squared error's share of the mean's root."""
        squares = ((self._shaped(output, batch[1]).double() - batch[1]) * batch[2]).square().mean(-1)
        mean = squares.mean()
        return {"rmse": (squares - mean) / (2 * mean.sqrt() * len(squares)).clamp(min=1e-300)}

    def _shaped(self, output: Tensor, targets: Tensor) -> Tensor:
        if output.dim() == 1 and targets.shape[-1] == 1:
            output = output.unsqueeze(-1)
        self._check_shape(output, *targets.shape)
        return output
