"""Steps: a network's weights are moved by its gradients, which may be clipped, at a rate that a schedule may change.

Beside the weights there may be their exponential moving average, by which the network is measured. In step s, from 0,
it decays by (1 + s) / (10 + s), or by what was asked for where that is less: so it soon forgets the first weights, and
0.99 takes 890 steps to be reached. Everything is of each network alone, so R networks whose parameters are stacked are
moved as each would be.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from hpo.training.updates.config import TrainingConfig
from hpo.training.updates.optimizers import make_optimizer
from hpo.training.updates.schedules import rate_factors

SMALL = 1e-6  # is added to a norm before it divides, as in PyTorch's clip_grad_norm_


class Steps:
    """Takes the steps of networks in training.

    Args:
        parameters: of one network; or of R, (R, ...) each.
        buffers: likewise; they are averaged as the parameters are.
        is_stacked: whether they are of R networks.
        rate: the learning rate as a tensor (), where steps are recorded: everything then counts on the device.
    """

    def __init__(
        self,
        config: TrainingConfig,
        parameters: Iterable[Tensor],
        buffers: Iterable[Tensor] = (),
        *,
        is_stacked: bool = False,
        rate: Tensor | None = None,
    ) -> None:
        self._parameters = list(parameters)
        self._config, self._is_stacked, self._rate = config, is_stacked, rate
        self.optimizer = make_optimizer(config, self._parameters, rate=rate)
        self._base = None if rate is None else rate.clone()
        self._done = 0
        self._factors = self._known(rate_factors(config.schedule, config.steps, config.warmup))
        decay = config.ema_decay or 0.0
        self._shares = self._known([max(1 - decay, 9 / (10 + step)) for step in range(config.steps)] if decay else None)
        is_counted = self._factors is not None or self._shares is not None
        self._count = torch.zeros(1, dtype=torch.long, device=rate.device) if rate is not None and is_counted else None
        self._averaged = [*self._parameters, *(one for one in buffers if one.is_floating_point())] if decay else []
        self._averages = [one.detach().clone() for one in self._averaged]

    def _known(self, numbers: Sequence[float] | None) -> Sequence[float] | Tensor | None:
        """Returns numbers, one for each step, where they are to be looked up."""
        if numbers is None or self._rate is None:
            return numbers
        return torch.tensor(numbers, dtype=self._rate.dtype, device=self._rate.device)

    def take(self) -> None:
        """Takes a step by the gradients that the parameters have."""
        if self._config.gradient_clipping:
            self._clip(self._config.gradient_clipping)
        if self._factors is not None:
            self._set_rate(self._now(self._factors))
        self.optimizer.step()
        if self._shares is not None:
            self._average(self._now(self._shares))
        self._done += 1
        if self._count is not None:
            self._count.add_(1).clamp_(max=self._config.steps - 1)

    @torch.no_grad()
    def begin(self, learning_rate: float) -> None:
        """Begins a training anew, from the parameters as they are now, at another rate; on the device."""
        assert self._base is not None
        assert self._rate is not None
        self._base.fill_(learning_rate)
        self._rate.fill_(learning_rate)
        if self._count is not None:
            self._count.zero_()
        for state in self.optimizer.state.values():
            for value in state.values():
                if isinstance(value, Tensor):
                    value.zero_()
        for average, own in zip(self._averages, self._averaged, strict=True):
            average.copy_(own)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Context manager in which parameters and buffers are their averages, where these are kept."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @property
    def averages(self) -> Sequence[Tensor]:
        """The averages of parameters and buffers; none where none are kept."""
        return self._averages

    @torch.no_grad()
    def _swap(self) -> None:
        for own, average in zip(self._averaged, self._averages, strict=True):
            kept = own.clone()
            own.copy_(average)
            average.copy_(kept)

    def _now(self, numbers: Sequence[float] | Tensor) -> float | Tensor:
        if isinstance(numbers, Tensor):
            assert self._count is not None
            return numbers.index_select(0, self._count)[0]
        return numbers[self._done]

    def _set_rate(self, factor: float | Tensor) -> None:
        if self._rate is not None and self._base is not None:
            self._rate.copy_(self._base * factor)
            return
        for group in self.optimizer.param_groups:
            group["lr"] = self._config.learning_rate * factor

    @torch.no_grad()
    def _clip(self, longest: float) -> None:
        gradients = [one.grad for one in self._parameters if one.grad is not None]
        parts = [one.reshape(len(one) if self._is_stacked else 1, -1) for one in gradients]
        norms = torch.stack([part.square().sum(1) for part in parts]).sum(0).sqrt()  # (R,), or (1,)
        factors = (longest / (norms + SMALL)).clamp(max=1.0)
        for gradient in gradients:
            gradient.mul_(factors.view(-1, *[1] * (gradient.dim() - 1)) if self._is_stacked else factors[0])

    @torch.no_grad()
    def _average(self, share: float | Tensor) -> None:
        for average, own in zip(self._averages, self._averaged, strict=True):
            average.lerp_(own, share)
