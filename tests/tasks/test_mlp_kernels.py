from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hpo.kernels import batch_norm, conv_pool, cross_entropy, winograd
from hpo.tasks.digit_pairs import mlp_kernels
from hpo.tasks.digit_pairs.mlp_kernels import MLP, backward, forward
from hpo.tasks.digit_pairs.mlp_rounds import flatten, is_mlp, structure, unflatten

NETWORKS, BATCH = 3, 40
TWICE = nn.Linear(3, 3)
ACTIVATIONS = [nn.ReLU(), nn.LeakyReLU(0.01), nn.LeakyReLU(0.3), nn.ELU(0.7), nn.ELU(1.0), nn.SELU()]
Outcome = tuple[Tensor, list[Tensor], Tensor]  # results, each parameter's gradient, the examples' gradient


def mlps(*layers: nn.Module, dtype: torch.dtype = torch.float64) -> list[nn.Sequential]:
    """Returns mlps of these layers, each with weights of its own."""
    made = []
    for seed in range(NETWORKS):
        torch.manual_seed(seed)
        fresh = [nn.Linear(m.in_features, m.out_features) if isinstance(m, nn.Linear) else m for m in layers]
        made.append(nn.Sequential(*fresh).to(dtype))
    return made


def examples(width: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return 2 * torch.randn(NETWORKS, BATCH, width, generator=torch.Generator().manual_seed(1), dtype=dtype)


def found(apart: list[nn.Sequential], x: Tensor) -> Outcome:
    """Sends examples through mlps and back, the gradient being the cosine of what came out."""
    flat = flatten(apart)
    mlp = MLP(flat.numpy(), *structure(apart[0]))
    results = forward(x.numpy(), mlp)
    last = torch.from_numpy(results)[:, -BATCH * mlp.widths[-1] :].reshape(NETWORKS, BATCH, -1)
    grad_flat, grad_x = torch.empty_like(flat), torch.empty_like(x)
    backward(x.numpy(), mlp, results, last.cos().numpy(), grad_flat.numpy(), grad_x.numpy())
    return last, list(unflatten(grad_flat, apart[0]).values()), grad_x


def expected(apart: list[nn.Sequential], x: Tensor) -> Outcome:
    """Does the same by PyTorch's own layers."""
    x = x.clone().requires_grad_()
    last = torch.stack([one(part) for one, part in zip(apart, x, strict=True)])
    parameters = [parameter for one in apart for parameter in one.parameters()]
    *gradients, grad_x = torch.autograd.grad(last, (*parameters, x), last.detach().cos())
    each = len(gradients) // NETWORKS
    return last, [torch.stack(gradients[i::each]) for i in range(each)], grad_x


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_a_chain_is_what_its_layers_are(activation: nn.Module) -> None:
    apart = mlps(nn.Flatten(), nn.Linear(7, 5), activation, nn.Linear(5, 4), nn.Linear(4, 6), activation)
    torch.testing.assert_close(found(apart, examples(7)), expected(apart, examples(7)), rtol=1e-12, atol=1e-12)


def test_in_float32_it_computes_in_float32() -> None:
    apart = mlps(nn.Linear(50, 30), nn.LeakyReLU(), nn.Linear(30, 10), dtype=torch.float32)
    x = examples(50, torch.float32)
    torch.testing.assert_close(found(apart, x), expected(apart, x), rtol=1e-5, atol=1e-5)
    assert structure(apart[0])[1].dtype == np.float32  # or every activation would be computed in float64


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
@pytest.mark.parametrize("number", [float("inf"), -float("inf"), float("nan"), 0.0])
def test_numbers_that_are_none_stay_so_in_their_network(activation: nn.Module, number: float) -> None:
    apart = mlps(nn.Linear(4, 3), activation, nn.Linear(3, 2))
    with torch.no_grad():
        apart[1].get_parameter("0.weight").zero_()
        apart[1].get_parameter("0.bias").fill_(number)
    result, wanted = found(apart, examples(4)), expected(apart, examples(4))
    torch.testing.assert_close(result, wanted, rtol=1e-12, atol=1e-12, equal_nan=True)


def test_the_gradient_of_the_examples_is_spared_where_nobody_wants_it() -> None:
    apart, x = mlps(nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 4)), examples(7)
    flat = flatten(apart)
    mlp = MLP(flat.numpy(), *structure(apart[0]))
    with_it, without, gradient = np.empty_like(mlp.flat), np.empty_like(mlp.flat), np.ones((NETWORKS, BATCH, 4))
    backward(x.numpy(), mlp, forward(x.numpy(), mlp), gradient.copy(), with_it, np.empty_like(x.numpy()))
    backward(x.numpy(), mlp, forward(x.numpy(), mlp), gradient.copy(), without, x.numpy()[:0])
    assert np.array_equal(with_it, without)


def test_parameters_come_back_by_name_and_the_originals_are_let_be() -> None:
    apart = mlps(nn.Flatten(), nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 4))
    flat = flatten(apart)
    named = unflatten(flat, apart[0])
    assert list(named) == ["1.weight", "1.bias", "3.weight", "3.bias"]
    for r, one in enumerate(apart):
        for name, parameter in one.named_parameters():
            assert torch.equal(named[name][r], parameter)
    flat.zero_()
    assert all(parameter.any() for one in apart for parameter in one.parameters())


@pytest.mark.parametrize(
    "layers",
    [
        [nn.Linear(3, 2)],
        [nn.Flatten(), nn.Linear(3, 2), nn.SELU(), nn.Linear(2, 2)],
        [nn.Linear(3, 2), nn.Linear(2, 2), nn.ELU()],
    ],
    ids=str,
)
def test_chains_are_recognised(layers: list[nn.Module]) -> None:
    assert is_mlp(nn.Sequential(*layers))


@pytest.mark.parametrize(
    "layers",
    [
        [],
        [nn.Flatten()],
        [nn.ReLU(), nn.Linear(3, 2)],
        [nn.Linear(3, 2), nn.ReLU(), nn.ReLU()],
        [nn.Linear(3, 2), nn.Flatten()],
        [nn.Linear(3, 2, bias=False)],
        [nn.Linear(3, 2), nn.Dropout()],
        [nn.Linear(3, 2), nn.BatchNorm1d(2)],
        [nn.Linear(3, 2), nn.LeakyReLU(-0.5)],
        [nn.Linear(3, 2), nn.ELU(-0.5)],
        [TWICE, TWICE],
        [nn.Conv2d(1, 1, 3)],
    ],
    ids=str,
)
def test_others_are_not(layers: list[nn.Module]) -> None:
    assert not is_mlp(nn.Sequential(*layers))


def test_nor_is_what_only_looks_like_one() -> None:
    class Doubled(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)  # type: ignore[no-any-return, no-untyped-call]

    assert not is_mlp(Doubled(nn.Linear(3, 2)))
    assert not is_mlp(nn.ModuleList([nn.Linear(3, 2)]))


KERNELS = [mlp_kernels, batch_norm, conv_pool, cross_entropy, winograd]


@pytest.mark.parametrize("module", KERNELS, ids=lambda module: module.__name__)
def test_a_compiled_function_calls_none_of_another_file(module: ModuleType) -> None:
    """Numba keeps what it compiled until the file of the function changes, whatever becomes of those it calls."""
    compiled = {name: it for name, it in vars(module).items() if hasattr(it, "py_func")}
    ours = {name: it.py_func for name, it in compiled.items() if it.py_func.__module__ == module.__name__}
    assert module is winograd or ours
    for name, function in ours.items():
        called = [compiled[other].py_func for other in function.__code__.co_names if other in compiled]
        assert {other.__module__ for other in called} <= {module.__name__}, name
