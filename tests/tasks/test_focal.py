"""The example with a loss of one's own: its gradients are finite wherever its parameter is searched."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch


@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0, 5.0])
def test_the_focal_loss_of_a_certain_answer_has_a_gradient(gamma: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path("examples").resolve())
    from focal import Focal  # type: ignore[import-not-found]

    monkeypatch.delitem(sys.modules, "focal")
    output = torch.tensor([[100.0, *[0.0] * 9], [0.0] * 10], requires_grad=True)
    loss = Focal().loss(output, (None, torch.tensor([0, 3])), gamma)
    loss.backward()
    assert output.grad is not None
    assert bool(output.grad.isfinite().all())
    p = 0.1  # of the second; the first counts for nothing
    assert loss.item() == pytest.approx(-((1 - p) ** gamma) * torch.tensor(p).log().item() / 2)
