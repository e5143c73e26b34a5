"""What bfloat16 does to the error: one configuration in both precisions, 30 rounds, compared round by round.

    python -m benchmarks.precision          # fnn, cnn_bn and residual: ten minutes on one core

Report A's final configuration by the protocol of `studies/cnn.toml`; both see the same pairs, weights and shuffles.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from scipy import stats

from hpo.study import catalog
from hpo.study.definition import define_study
from hpo.study.space import Configuration
from hpo.tasks.datasets import data_folder
from hpo.workers.objective import decided, make_objective

ROUNDS = 30


def measure(architecture: str, precision: str) -> tuple[Sequence[float], float]:
    """Returns the last errors of the rounds in percent, and the seconds that it took."""
    table = catalog.load_study("cnn")[1].model_dump(mode="json")
    table["protocol"] |= {"rounds": ROUNDS, "precision": precision, "evaluate_at": []}
    table["pruner"] = {"name": "none"}
    objective = make_objective(define_study(table, name="precision"), "cpu", data_folder())
    configuration = Configuration(
        architecture=architecture, weight_sharing=True, auxiliary_loss=True,
        activation="leaky_relu", optimizer="sgd", learning_rate=0.1,
    )  # fmt: skip
    began = time.perf_counter()
    *_, last = objective.train(objective.prepare(configuration))
    if last.errors is None:
        raise RuntimeError("the last epoch was not evaluated")
    return decided(last.errors, "recognition").tolist(), time.perf_counter() - began


def main(architectures: Sequence[str]) -> None:
    """Prints a row for each architecture."""
    print(f"{ROUNDS} rounds, errors in percent; interval: 95 %, paired\n")
    print("| architecture | float32 | bfloat16 | difference | interval | float32 takes |")
    print("|---|---|---|---|---|---|", flush=True)
    for architecture in architectures:
        (exact, slow), (rough, fast) = (measure(architecture, precision) for precision in ("float32", "bfloat16"))
        paired = stats.ttest_rel(rough, exact)
        low, high = paired.confidence_interval()
        means = [f"{stats.tmean(errors):.2f} ± {stats.tstd(errors):.2f}" for errors in (exact, rough)]
        difference = stats.tmean(rough) - stats.tmean(exact)
        print(
            f"| {architecture} | {means[0]} | {means[1]} | {difference:+.2f} | {low:+.2f} to {high:+.2f} "
            f"| {slow / fast:.2f} times as long |",
            flush=True,
        )


if __name__ == "__main__":
    main(sys.argv[1:] or ("fnn", "cnn_bn", "residual"))
