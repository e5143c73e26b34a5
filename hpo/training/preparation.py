"""Makes the networks of a configuration ready to be trained: fresh ones, or a recorded structure that fits."""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable, Sequence
from functools import partial

import torch
from torch import nn

from hpo.errors import is_out_of_memory
from hpo.study.task import Params, Round
from hpo.study.training import Training
from hpo.training.batch import each
from hpo.training.data import RoundData
from hpo.training.device import CPU
from hpo.training.network_task import NetworkTask, named_in, variation_of
from hpo.training.randomness import RandomStream
from hpo.training.recording.gpu_kernels import NO_KERNELS, Kernels, find_kernels, suppress_failure
from hpo.training.recording.recorded import Evaluate, RecordedRounds, Store, most_bytes
from hpo.training.recording.recorder import CudaRecorder, Recorder, Streams, ended_if_it_fails
from hpo.training.rounds import Loss, Rounds, StackedRounds
from hpo.training.updates.config import TrainingConfig, config_of
from hpo.training.ways import make_rounds

EXAMPLES = 16  # of each round, on which ways of training are tried
WEIGHTS = "weights"  # the stream of random numbers that trials draw theirs from


class Preparation:
    """Makes networks, and keeps what was recorded of some for the trials to come.

    Args:
        data: of the rounds.
        evaluate: what is made of the outputs of a configuration on the test data.
        stacked: which of the two ways of training; None chooses the faster.
        recorder: makes what records steps; None takes CUDA graphs on a GPU, and none on a CPU.
        can_record: whether nobody looks at gradients after each step.
    """

    def __init__(
        self,
        task: NetworkTask,
        training: Training,
        data: RoundData,
        evaluate: Callable[[Params], Evaluate],
        *,
        stacked: bool | None = None,
        recorder: Callable[[], Recorder] | None = None,
        can_record: bool = True,
    ) -> None:
        self._task, self._training, self._data, self._evaluate = task, training, data, evaluate
        self._stacked = stacked
        on_gpu = data.device.type == "cuda" and data.dtype == torch.float32
        self._records = recorder or (partial(CudaRecorder, Streams(data.device)) if on_gpu else None)
        if not can_record:
            self._records = None
        self._store = Store(most_bytes(data.device))
        self._kernels: dict[Hashable, Kernels | None] = {}  # None: nothing of such networks can be recorded
        self._said: set[str] = set()

    @property
    def can_record(self) -> bool:
        """Whether trials' networks may be recorded."""
        return self._records is not None

    def way_of(self, networks: Rounds) -> str:
        """Returns how a trial's networks are trained, for people, given fresh ones of it."""
        return RecordedRounds.way if self._records and type(networks) is StackedRounds else networks.way

    def prepare(self, params: Params, rounds: Sequence[Round]) -> Rounds:
        """Returns networks at the beginning of a trial, each seeded by its round; give them back when it has ended."""
        networks = self._prepared(params, rounds)
        if isinstance(networks, RecordedRounds):
            networks.begin(float(params["learning_rate"]))
        return networks

    def give_back(self, networks: Rounds) -> None:
        """Takes the networks of a trial that has ended."""
        if isinstance(networks, RecordedRounds):
            self._store.give_back(networks)

    def fresh(self, params: Params, rounds: Sequence[Round], stream: str = WEIGHTS) -> Rounds:
        """Returns fresh networks, of which nothing is recorded."""
        networks, config, loss = self._build(params, rounds, stream), self.config(params, rounds), self._loss(params)
        fast_rounds = getattr(self._task, "fast_rounds", None)
        if fast_rounds is not None and self._stacked is not False:
            fast: Rounds | None = fast_rounds(networks, params, config)
            if fast is not None:
                return fast
        example = each(self._data.of(rounds).train, lambda tensor: tensor[:, :EXAMPLES])
        draws = [one.training_seed(f"{stream} draws") for one in rounds]
        return make_rounds(networks, config, loss, example, draws, stacked=self._stacked)

    def _recorded(self, params: Params, rounds: Sequence[Round]) -> RecordedRounds | None:
        """Returns a recorded structure that is of a configuration, or can be made so; None where there is none."""
        if self._records is None:
            return None
        key, numbers = self._shared(params, rounds)
        networks = self._store.take(key, numbers)
        if networks is None:
            return None
        if not networks.is_of(self._data.of(rounds)):
            self._store.discard(networks)
            return None
        is_its = networks.numbers == numbers
        try:
            is_its = is_its or networks.take_over(partial(self._build, params, rounds), numbers)
        finally:
            if not is_its:
                self.give_back(networks)
        return networks if is_its else None

    def _prepared(self, params: Params, rounds: Sequence[Round]) -> Rounds:
        """Returns networks that are recorded, if they can be; what is kept goes where it leaves no memory for them."""
        try:
            return self._recorded(params, rounds) or self._made(params, rounds)
        except RuntimeError as error:
            if not (is_out_of_memory(error) and len(self._store)):
                raise
        self._store.clear()
        torch.cuda.empty_cache()
        return self._made(params, rounds)

    def _made(self, params: Params, rounds: Sequence[Round]) -> Rounds:
        """Returns fresh networks, their steps recorded if they can be: by our kernels, or else by PyTorch's."""
        made = self.fresh(params, rounds)
        if self._records is None or type(made) is not StackedRounds:
            return made
        networks, config, loss = self._build(params, rounds), self.config(params, rounds), self._loss(params)
        split, (key, numbers) = self._data.of(rounds), self._shared(params, rounds)
        wanted = (key, *numbers.items())
        if wanted not in self._kernels:
            batch = each(split.train, lambda tensor: tensor[:, : config.batch_size])
            on_gpu = self._data.device.type == "cuda"
            self._kernels[wanted] = find_kernels(networks, config, loss, batch) if on_gpu else NO_KERNELS
        while (kernels := self._kernels[wanted]) is not None:
            self._say(kernels)
            with suppress_failure(self._data.device), ended_if_it_fails(recorder := self._records()):
                return RecordedRounds(
                    *(networks, config, loss),
                    train=split.train,
                    test=split.test,
                    evaluate=self._evaluate(params),
                    varies=variation_of(self._task, params) is not None,
                    recorder=recorder,
                    key=key,
                    kernels=kernels,
                    numbers=numbers,
                )
            self._kernels[wanted] = Kernels(why_not="ours cannot be recorded") if kernels.fuse else None
        return made

    def _say(self, kernels: Kernels) -> None:
        if kernels.why_not and kernels.why_not not in self._said:
            self._said.add(kernels.why_not)
            print(f"{self._data.device}: trains{kernels.described}", file=sys.stderr)

    def _shared(self, params: Params, rounds: Sequence[Round]) -> tuple[Hashable, dict[str, float]]:
        """Returns what trials must share to be trained by one structure, and in which numbers it may be another's."""
        of_network, of_loss = named_in(self._task.network, params), named_in(self._task.loss, params, skip=2)
        numbers = {name: of for name, of in of_network.items() if isinstance(of, float) and name not in of_loss}
        free = {*numbers, *({"learning_rate"} - of_loss.keys())}
        return (tuple(rounds), *sorted((name, of) for name, of in params.items() if name not in free)), numbers

    def _build(self, params: Params, rounds: Sequence[Round], stream: str = WEIGHTS) -> list[nn.Module]:
        """Returns a network for each round, on the device."""
        build = partial(self._task.network, **named_in(self._task.network, params))
        networks = build_networks(build, [one.training_seed(stream) for one in rounds])
        return [network.to(self._data.device, self._data.dtype) for network in networks]

    def config(self, params: Params, rounds: Sequence[Round]) -> TrainingConfig:
        """Returns how a configuration's networks are trained."""
        return config_of(self._training, params, self._data.of(rounds).train[0].shape[1])

    def _loss(self, params: Params) -> Loss:
        return partial(self._task.loss, **named_in(self._task.loss, params, skip=2))


def build_networks(build: Callable[[], nn.Module], seeds: Sequence[int]) -> list[nn.Module]:
    """Returns a network for each seed, the same on every device; the global random state stays as it was."""
    networks = []
    for seed in seeds:
        with RandomStream(seed, CPU).drawing():
            networks.append(build())
    return networks
