"""Compiles every kernel for a card of some compute capability, without one: a program of test_compiling.py.

The interpreter runs as Python what Triton's compiler may refuse. Kernels are called on tensors without numbers, and
what would be launched is compiled instead; prints how many kernels were, and the most shared memory that one takes.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from hpo.kernels.gpu.activation import Activation, activated_sum
from hpo.kernels.gpu.convolution import convolution
from hpo.kernels.gpu.linear import linear
from hpo.kernels.gpu.losses import pair_losses
from hpo.kernels.gpu.norm import Settings, Statistics, norm
from hpo.kernels.gpu.pooling import average_pool, max_pool

TYPES = {torch.float32: "*fp32", torch.int64: "*i64", torch.int8: "*i8"}
compiled: dict[str, int] = {}


def compile_for(capability: int, kernel: Any, arguments: tuple[Any, ...], options: dict[str, int]) -> None:
    """Compiles a kernel as a launch with these arguments would."""
    signature: dict[str, str] = {}
    constants: dict[tuple[int], Any] = {}
    alignments: dict[tuple[int], Any] = {}
    for i, (parameter, given) in enumerate(zip(kernel.params, arguments, strict=True)):
        if parameter.is_constexpr:
            signature[parameter.name], constants[(i,)] = "constexpr", given
        elif isinstance(given, Tensor):
            signature[parameter.name], alignments[(i,)] = TYPES[given.dtype], [["tt.divisibility", 16]]
        elif isinstance(given, int) and parameter.do_not_specialize:
            signature[parameter.name] = "i32"
        elif isinstance(given, int) and given == 1:
            signature[parameter.name], constants[(i,)] = "constexpr", 1
        elif isinstance(given, int):
            signature[parameter.name] = "i32"
            alignments |= {} if given % 16 else {(i,): [["tt.divisibility", 16]]}
        else:
            signature[parameter.name] = "fp32"
    source = ASTSource(kernel, signature, constants, alignments)
    binary = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    compiled[kernel.__name__] = max(binary.metadata.shared, compiled.get(kernel.__name__, 0))


def leaf(*shape: int) -> Tensor:
    return torch.empty(*shape, device="meta", requires_grad=True)


def differentiate(result: Tensor) -> None:
    result.backward(torch.empty_like(result))  # type: ignore[no-untyped-call]


def call_all(rounds: int = 10) -> None:
    """Calls every kernel, on sizes of studies."""
    relu, elu = Activation("relu"), Activation("elu", torch.empty((), device="meta"))
    maps, channels = (rounds, 32, 100, 7, 7), (rounds, 32)
    differentiate(convolution(leaf(*maps), leaf(rounds, 64, 32, 3, 3), leaf(rounds, 64), (1, 1), "tf32x3"))
    differentiate(linear(leaf(rounds, 400, 256), leaf(rounds, 200, 256), leaf(rounds, 200), elu, "bf16"))
    tracked = torch.empty(rounds, dtype=torch.int64, device="meta")
    for training, pool, activation in ((True, True, elu), (False, False, relu)):
        kept = Statistics(leaf(*channels).detach(), leaf(*channels).detach(), tracked)
        settings = Settings(training, pool, activation, 1e-5, 0.1)
        added = None if pool else leaf(*maps)
        differentiate(norm(leaf(*maps), leaf(*channels), leaf(*channels), kept, settings, added))
    differentiate(max_pool(leaf(*maps), 3, 2, Activation("selu")))
    differentiate(average_pool(leaf(*maps), 7, Activation("leaky_relu", elu.alpha)))
    differentiate(activated_sum(leaf(*maps), leaf(*maps), elu))
    labels = torch.empty(rounds, 100, dtype=torch.int64, device="meta")
    classes = labels.unsqueeze(-1).expand(-1, -1, 2)
    differentiate(pair_losses(leaf(rounds, 100, 2), leaf(rounds, 100, 2, 10), labels, classes, 1.0, 0.5))


if __name__ == "__main__":
    wanted = int(sys.argv[1])
    JITFunction.__getitem__ = lambda kernel, grid: (
        lambda *arguments, **options: compile_for(wanted, kernel, arguments, options)
    )
    call_all()
    print(len(compiled), max(compiled.values()))
