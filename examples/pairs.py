"""The digit pairs, with a network of one's own in place of those that hpo brings."""

from __future__ import annotations

from torch import Tensor, nn

from hpo.tasks.digit_pairs.task import DigitPairs


class Pairs(DigitPairs):
    """Its data, losses and errors are those of the digit pairs."""

    def network(self, hidden: int) -> nn.Module:  # type: ignore[override]
        """Builds one whose width is searched."""
        return PairNet(hidden)


class PairNet(nn.Module):
    """A hidden layer tells each digit; what the digits look like tells which is the larger."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.digit = nn.Sequential(nn.Flatten(), nn.Linear(14 * 14, hidden), nn.ReLU(), nn.Linear(hidden, 10))
        self.comparison = nn.Sequential(nn.ReLU(), nn.Linear(20, 2))

    def forward(self, pairs: Tensor) -> tuple[Tensor, Tensor]:
        """Maps pairs (B, 2, 14, 14) to what they compare to, (B, 2), and their digits, (B, 2, 10)."""
        digits = self.digit(pairs.reshape(-1, 1, 14, 14)).view(-1, 2, 10)
        return self.comparison(digits.flatten(1)), digits
