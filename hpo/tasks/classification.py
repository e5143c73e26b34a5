"""Examples of classes: cross-entropy, and the percentage of test examples that are taken for another class."""

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


class Classification(Supervised):
    """Cross-entropy; the error is the percentage of test examples that are taken for another class."""

    @property
    def outputs(self) -> int:
        """How many classes there are."""
        return int(self._y.max()) + 1

    @property
    def metrics(self) -> Sequence[Metric]:
        """The percentage that is wrong."""
        described = "the largest output is another class than the example's"
        return (Metric("error", "test error", described, resolution=100 / self.test_examples),)

    def targets(self, examples: Examples) -> Any:
        """Returns classes 0, 1, 2 …, whatever they are called.

        Raises:
            DatasetError: where a target is no class.
        """
        y = examples.y.reshape(len(examples.y), -1)
        if y.shape[1] != 1:
            raise DatasetError(f"{self.settings.data}: a class is one value, but y is of shape {examples.y.shape}")
        names, classes = np.unique(y[:, 0], return_inverse=True)
        if len(names) < 2:
            raise DatasetError(f"{self.settings.data} has a single class, {names[0]}")
        if len(names) > len(y) // 2 and len(names) > 20:
            raise DatasetError(
                f"{self.settings.data} has {len(names)} classes in {len(y)} examples; name = 'regression'?"
            )
        return classes.astype(np.int64)

    def target_tensors(self, train: Any, test: Any) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Returns the classes."""
        import torch

        return (torch.from_numpy(train),), (torch.from_numpy(test),)

    def loss(self, output: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Returns the mean cross-entropy of logits (B, K)."""
        from hpo.kernels.cross_entropy import cross_entropy
        from hpo.kernels.gpu.fuse import takes_losses

        self._check_shape(output, len(batch[1]), self.outputs)
        if takes_losses(output):
            from hpo.kernels.gpu.losses import cross_entropy as mean_cross_entropy
            from hpo.kernels.gpu.stacked import of_all_rounds

            return of_all_rounds(mean_cross_entropy, output, batch[1])
        return cross_entropy(output, batch[1]).mean()

    def errors(self, output: Tensor, batch: tuple[Tensor, Tensor]) -> Mapping[str, Tensor]:
        """Returns each example's error, 0 or 100; NaN where a logit is not finite."""
        wrong = 100.0 * (output.argmax(-1) != batch[1]).double()
        return {"error": wrong.where(output.isfinite().all(-1), float("nan"))}

    def average(self, output: Tensor) -> Tensor:
        """Returns the mean prediction of M networks, (M, N, K) -> (N, K): of their probabilities."""
        from hpo.training.ensembles import average_logits

        return average_logits(output)
