"""What bfloat16 does to the error: one configuration in both precisions, 30 rounds, compared round by round.

    python -m benchmarks.precision          # half an hour on one core

Report A's final configuration by the protocol of `studies/cnn.toml`; both see the same pairs, weights and shuffles.
Times are of the processor, by one thread.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from scipy import stats

from benchmarks.report_a import cnn_rounds, cnn_task, final_params
from hpo.training.trainer import open_trainer

ROUNDS = 30


def measure(architecture: str, precision: str) -> tuple[Sequence[float], float]:
    """Returns the last errors of the rounds in percent, and the processor's seconds that it took."""
    task, training = cnn_task()
    training = training.model_copy(update={"precision": precision, "evaluate_at": ()})
    rounds = cnn_rounds(range(ROUNDS))
    trainer = open_trainer(task, training, "cpu", rounds)
    began = time.process_time()
    *_, last = trainer.measure(final_params(architecture), rounds)
    return last.errors["recognition"], time.process_time() - began


def main(architectures: Sequence[str]) -> None:
    """Prints a row for each architecture."""
    print(f"{ROUNDS} rounds, errors in percent; interval: 95 %, paired\n")
    print("| architecture | float32 | bfloat16 | difference | interval | bfloat16 takes |")
    print("|---|---|---|---|---|---|", flush=True)
    for architecture in architectures:
        (exact, slow), (rough, fast) = (measure(architecture, precision) for precision in ("float32", "bfloat16"))
        paired = stats.ttest_rel(rough, exact)
        low, high = paired.confidence_interval()
        means = [f"{stats.tmean(errors):.2f} ± {stats.tstd(errors):.2f}" for errors in (exact, rough)]
        difference = stats.tmean(rough) - stats.tmean(exact)
        print(
            f"| {architecture} | {means[0]} | {means[1]} | {difference:+.2f} | {low:+.2f} to {high:+.2f} "
            f"| {fast / slow:.2f} times as long |",
            flush=True,
        )


if __name__ == "__main__":
    main(sys.argv[1:] or ("fnn", "cnn_bn", "residual", "unpooled_cnn"))
