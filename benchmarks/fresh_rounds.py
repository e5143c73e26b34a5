"""Measures a trial's configuration again, on rounds that its study never used.

    python -m benchmarks.fresh_rounds sqlite:///hpo.db cnn 125 10 40

takes trial 125 of study `cnn` and trains rounds 10 to 39 of the same study seed, as `hpo confirm` is going to.
"""

from __future__ import annotations

import sys

import torch

from hpo.data import draw_rounds
from hpo.datasets import data_folder
from hpo.objective import decided, make_recipe, network_builder
from hpo.records import read_trials
from hpo.results import read_definition
from hpo.seeding import derive_seed
from hpo.space import Configuration
from hpo.storage import open_storage
from hpo.training import build_networks, train


def main(url: str, study: str, number: int, first: int, end: int) -> None:
    """Prints each round's error, their mean, deviation and standard error."""
    torch.set_num_threads(1)
    storage = open_storage(url)
    protocol = (definition := read_definition(storage, study)).protocol
    trial = next(trial for trial in read_trials(storage, study) if trial.number == number)
    configuration = Configuration(**trial.params)
    rounds = range(first, end)
    train_pairs, test_pairs = draw_rounds(
        protocol.dataset,
        data_folder(),
        study_seed=protocol.seed,
        rounds=rounds,
        train_pairs=protocol.train_pairs,
        test_pairs=protocol.test_pairs,
    )
    seeds = {
        stream: [derive_seed(protocol.seed, "round", r, stream) for r in rounds] for stream in ("weights", "shuffle")
    }
    networks = build_networks(network_builder(configuration), seeds["weights"])
    recipe = make_recipe(definition.protocol, configuration)
    *_, last = train(networks, train_pairs, test_pairs, recipe, shuffle_seeds=seeds["shuffle"])
    if last.errors is None:
        raise RuntimeError("the last epoch was not evaluated")
    errors = decided(last.errors, protocol.decision)
    print(f"{study} trial {number}, rounds {first} to {end - 1}: {[round(error, 2) for error in errors.tolist()]}")
    error = errors.std() / len(errors) ** 0.5
    print(f"{errors.mean():.3f} ± {errors.std():.3f} %, standard error {error:.3f}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
