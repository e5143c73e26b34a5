"""One machine's parent process: what `hpo optimize` does, with an objective that needs no training.

python -m tests.chaos.parent URL TARGET WORKERS FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

from hpo.errors import HpoError
from hpo.signals import stop_on_signals
from hpo.storage.backends import FAILURES, explain_failure, open_storage
from hpo.storage.studies import read_definition
from hpo.study.references import Sources
from hpo.workers.launch import run_study
from hpo.workers.plan import Plan


def main(url: str, target: str, workers: str, folder: str) -> int:
    """Brings the study 'chaos' to its trials; returns the exit code of `hpo optimize`."""
    stop_on_signals()
    try:
        opened = open_storage(url, create=True)
        plan = Plan("chaos", read_definition(opened, "chaos"), int(target))
        run_study(
            opened,
            plan,
            devices=["cpu"] * int(workers),
            sources=Sources(Path(folder)),
            show=lambda status: None,
            make_objective="tests.chaos.faults:make_objective",
        )
    except HpoError as error:
        print(f"hpo: {error}", file=sys.stderr)
        return error.exit_code
    except FAILURES as error:
        print(f"hpo: the storage failed: {explain_failure(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
