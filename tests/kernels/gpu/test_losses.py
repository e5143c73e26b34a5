from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from hpo.kernels.gpu.fuse import _has_losses
from hpo.kernels.gpu.losses import are_pytorchs, cross_entropy, pair_losses
from tests.kernels.gpu.comparison import DEVICE, as_double, assert_close, assert_computes, leaf


def labels(classes: int, *shape: int) -> Tensor:
    return torch.randint(classes, shape, generator=torch.Generator().manual_seed(0)).to(DEVICE)


@pytest.mark.parametrize(("rows", "classes"), [(1, 2), (21, 10), (700, 7)])
@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_cross_entropy_is_pytorchs(rows: int, classes: int, scale: float) -> None:
    known = labels(classes, 2, rows)
    assert_computes(
        lambda logits: cross_entropy(logits, known),
        lambda logits: torch.stack([functional.cross_entropy(one, of) for one, of in zip(logits, known, strict=True)]),
        [(scale * leaf(2, rows, classes)).detach().requires_grad_()],
        of_rounds=False,
    )


@pytest.mark.parametrize("auxiliary", [0.3, 0.0, None])
def test_the_losses_of_pairs_are_pytorchs(auxiliary: float | None) -> None:
    targets, classes = labels(2, 3, 21), labels(10, 3, 21, 2)
    loss = functional.cross_entropy

    def exact(comparison: Tensor, digits: Tensor) -> Tensor:
        both = [
            loss(of[:, 0], known[:, 0]) + loss(of[:, 1], known[:, 1]) for of, known in zip(digits, classes, strict=True)
        ]
        main = [loss(of, known) for of, known in zip(comparison, targets, strict=True)]
        return 0.8 * torch.stack(main) + (auxiliary or 0.0) * torch.stack(both)

    inputs = leaf(3, 21, 2), leaf(3, 21, 2, 10)
    found = pair_losses(*inputs, targets, classes, 0.8, auxiliary)
    doubles = as_double(inputs)
    upstream = leaf(3).detach()  # another one for each round
    gradients = torch.autograd.grad(found, inputs, upstream, materialize_grads=True, allow_unused=True)
    wanted = torch.autograd.grad(exact(*doubles), doubles, upstream.double())
    assert_close(found, exact(*doubles), 3e-6)
    for one, other in zip(gradients, wanted, strict=True):
        assert_close(one, other, 3e-6)


def test_losses_are_held_against_pytorchs_where_they_are_first_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert are_pytorchs(DEVICE)
    monkeypatch.setattr("hpo.kernels.gpu.losses.pair_losses", lambda *given: 1.01 * pair_losses(*given))
    assert not are_pytorchs(DEVICE)


@pytest.mark.parametrize("within", ["no_grad", "vmap", "inference"])
def test_whatever_asks_first_whether_they_can_be_taken(within: str, capsys: pytest.CaptureFixture[str]) -> None:
    device = torch.device(DEVICE)
    _has_losses.cache_clear()
    if within == "vmap":
        asked = torch.func.vmap(lambda one: one * int(_has_losses(device)))(torch.ones(2)).bool().all().item()
    else:
        with torch.no_grad() if within == "no_grad" else torch.inference_mode():
            asked = _has_losses(device)
    assert (asked, capsys.readouterr().err) == (True, "")


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning", "ignore:divide by zero:RuntimeWarning")
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_round_that_is_not_finite_stays_so_and_alone(bad: float) -> None:
    logits = leaf(2, 5, 10).detach()
    logits[1, 2, 3] = bad
    logits.requires_grad_()
    known = torch.full((2, 5), 3, device=DEVICE)
    assert_computes(
        lambda logits: cross_entropy(logits, known),
        lambda logits: functional.cross_entropy(logits, known[0]),
        [logits],
    )
    assert cross_entropy(logits, known).isfinite().tolist() == [True, False]
