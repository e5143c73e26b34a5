"""Measures the golden studies again, and compares them with what was recorded at commit c330e99.

    make golden                             # all of them
    python -m tests.golden quickstart       # only some
    python -m tests.golden --record         # those that have no record yet; a record is never made again

`NAME.toml` is a study that never changes, whatever becomes of the shipped ones; `recorded/NAME.json` is what it
measured. Equal
means to the last digit where processor and versions are the recorded ones. Elsewhere sums round differently: there the
configurations and states of listed trials and of a search's random start must be the same, and the errors of trials
with the same configuration, compared round by round, such as rounding alone makes in all but one of a thousand
comparisons. Cases on MNIST need `HPO_DATA`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from itertools import zip_longest
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import optuna
import torch
from scipy.stats import norm, t

HERE = Path(__file__).parent
RECORDED = HERE / "recorded"
ROOT = HERE.parent.parent
PACKAGES = ("torch", "numpy", "scipy", "numba", "optuna", "scikit-learn")
RANDOM_START = 10  # the sampler's n_startup_trials
RARE = 0.001  # the probability of a difference that counts; a case compares up to fifty
FEW_ROUNDS = 5  # of fewer, a standard error may be next to nothing by chance
ROUNDING = 0.2  # percentage points: how far a round's errors deviate between sets of instructions (docs/deployment.md)

Record = dict[str, Any]


def commands(name: str) -> list[list[str]]:
    """Returns the commands of a case, without `hpo`."""
    study = str(HERE / f"{name}.toml")
    if name == "range_test":
        network = [
            "space.architecture=fnn",
            "space.weight_sharing=true",
            "space.auxiliary_loss=true",
            "space.activation=relu",
        ]
        settings = [part for setting in network for part in ("--set", setting)]
        optimizers = [part for optimizer in ("sgd", "rmsprop", "adam") for part in ("--optimizer", optimizer)]
        return [["lr-find", "--study", study, *settings, *optimizers, "--steps", "40", "--json"]]
    optimize = ["optimize", "--study", study, "--workers", "1"]
    if name == "cnn":
        return [[*optimize, "--trials", "40"]]
    if name == "quickstart":
        confirm = ["confirm", "--study", "quickstart", "--top", "3", "--rounds", "10", "--workers", "1"]
        return [[*optimize, "--trials", "30"], confirm]
    return [optimize]


def names() -> list[str]:
    """Returns the names of all cases, the longest first."""
    found = [file.stem for file in sorted(HERE.glob("*.toml"))]
    return sorted(found, key=lambda name: name not in ("report_b_table_2", "cnn"))


def is_on_mnist(name: str) -> bool:
    """Says whether a case needs MNIST's files."""
    return 'dataset = "mnist"' in (HERE / f"{name}.toml").read_text(encoding="utf-8")


def conditions() -> dict[str, str]:
    """Returns what decides how sums are rounded: the processor, and the libraries' versions."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    said: dict[str, str] = {}
    for line in lines:
        key, _, value = line.partition(":")
        said.setdefault(key.strip(), value.strip())
    processor = " ".join(said.get(key, "?") for key in ("model name", "cpu family", "model", "stepping"))
    return {
        "processor": f"{processor} {torch.backends.cpu.get_cpu_capability()}",
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
    }


def measure(name: str) -> Record:
    """Runs a case's commands in a folder of their own, and returns what they measured."""
    with tempfile.TemporaryDirectory(prefix="hpo-golden-") as folder:
        url = f"sqlite:///{folder}/golden.db"
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "HPO_STORAGE": url}
        printed = []
        for arguments in commands(name):
            command = [sys.executable, "-m", "hpo", *arguments]
            done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise SystemExit(
                    f"{name}: hpo {' '.join(arguments)} ended with {done.returncode}: {done.stderr[-2000:]}"
                )
            if "--json" in arguments:
                printed.append(json.loads(done.stdout))
        studies = read_studies(url) if Path(folder, "golden.db").exists() else {}
    return {"conditions": conditions(), "studies": studies, "printed": printed}


def read_studies(url: str) -> dict[str, list[Record]]:
    """Returns the trials of every study, as Optuna itself reads them."""
    storage = optuna.storages.RDBStorage(url, skip_compatibility_check=False)
    found = {}
    for study in optuna.study.get_all_study_names(storage):
        trials = optuna.load_study(study_name=study, storage=storage).trials
        found[study] = [
            {
                "number": trial.number,
                "state": trial.state.name,
                "value": trial.value,
                "params": trial.params,
                "reported": {str(step): value for step, value in trial.intermediate_values.items()},
                **{key: trial.user_attrs.get(key) for key in ("errors", "errors_head", "errors_recognition")},
            }
            for trial in trials
        ]
    storage.engine.dispose()
    return found


def differences(name: str, recorded: Record, now: Record) -> list[str]:
    """Names what differs between a record and what was measured now, by the rule that fits the conditions."""
    if recorded["conditions"] == now["conditions"]:
        return list(_exactly(recorded["studies"], now["studies"], "studies")) + list(
            _exactly(recorded["printed"], now["printed"], "printed")
        )
    return list(_nearly(name, recorded, now))


def _exactly(recorded: Any, now: Any, where: str) -> Iterator[str]:
    if isinstance(recorded, dict) and isinstance(now, dict):
        for key in recorded:  # what has come since is no difference
            yield from _exactly(recorded[key], now.get(key), f"{where}.{key}")
    elif isinstance(recorded, list) and isinstance(now, list):
        for i, (one, other) in enumerate(zip_longest(recorded, now)):
            yield from _exactly(one, other, f"{where}.{i}")
    elif recorded != now:
        yield f"{where} was {recorded!r} and is {now!r}"


def _nearly(name: str, recorded: Record, now: Record) -> Iterator[str]:
    study = tomllib.loads((HERE / f"{name}.toml").read_text(encoding="utf-8"))
    for of, trials in recorded["studies"].items():
        others = now["studies"].get(of, [])
        if len(others) != len(trials):
            yield f"{of} had {len(trials)} trials and has {len(others)}"
        for trial, other in zip(trials, others, strict=False):
            where = f"{of}.{trial['number']}"
            same = _same_params(trial["params"], other["params"])
            if of != name or ("space" in study and trial["number"] >= RANDOM_START):
                if not same:  # a sampler, or a confirmation, that saw slightly other errors
                    continue
            elif not same:
                yield f"{where}: params were {trial['params']} and are {other['params']}"
            if trial["state"] != other["state"]:
                yield f"{where}: state was {trial['state']} and is {other['state']}"
            elif trial["errors"] is not None:
                yield from _apart(where, trial["errors"], other["errors"])
    for sweeps, others in zip(recorded["printed"], now["printed"], strict=True):
        for curve, other in zip(sweeps, others, strict=True):
            where = f"range test of {curve['optimizer']}"
            yield from _exactly(curve["rates"], other["rates"], f"{where}: rates")
            if not math.isclose(curve["mean"], other["mean"], rel_tol=0.5):
                yield f"{where}: the optimum was {curve['mean']:.3g} and is {other['mean']:.3g}"


def _same_params(params: Record, others: Record) -> bool:
    return params.keys() == others.keys() and all(
        math.isclose(value, others[key], rel_tol=1e-9) if isinstance(value, float) else value == others[key]
        for key, value in params.items()
    )


def _apart(where: str, errors: list[float], others: list[float]) -> Iterator[str]:
    difference = [other - error for error, other in zip(errors, others, strict=True)]
    rounds = len(difference)
    few = rounds < FEW_ROUNDS
    deviation = max(stdev(difference), ROUNDING) if few else stdev(difference)
    standard_error = deviation / rounds**0.5
    quantile = float(norm.isf(RARE / 2) if few else t.isf(RARE / 2, rounds - 1))
    if abs(fmean(difference)) > quantile * standard_error:
        yield f"{where}: errors are {fmean(difference):+.3f} points away, standard error {standard_error:.3f}"


def check(name: str, *, record: bool = False) -> list[str]:
    """Measures a case again; returns what differs from its record, or with `record` makes the first."""
    file = RECORDED / f"{name}.json"
    if not file.exists() and not record:
        return ["there is no record"]
    now = measure(name)
    if record:
        file.write_text(json.dumps(now, indent=1) + "\n", encoding="utf-8")
        return []
    return differences(name, json.loads(file.read_text(encoding="utf-8")), now)


def main() -> int:
    """Checks the cases that are asked for; returns 1 where one differs."""
    parser = argparse.ArgumentParser(prog="python -m tests.golden")
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these cases")
    parser.add_argument("--record", action="store_true", help="measure the cases that have no record, and keep them")
    asked = parser.parse_args()
    chosen = [name for name in names() if not asked.names or name in asked.names]
    if asked.record:
        chosen = [name for name in chosen if not (RECORDED / f"{name}.json").exists()]
    if any(map(is_on_mnist, chosen)) and not os.environ.get("HPO_DATA"):
        parser.error("cases on MNIST need HPO_DATA, the folder above MNIST")
    failed = False
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for name, found in zip(chosen, pool.map(lambda name: check(name, record=asked.record), chosen), strict=True):
            file = RECORDED / f"{name}.json"
            same = (
                json.loads(file.read_text(encoding="utf-8"))["conditions"] == conditions() if file.exists() else False
            )
            how = "to the last digit" if same else "but for rounding, on another processor or with other versions"
            print(f"{name}: {'recorded' if asked.record else f'equal, {how}'}" if not found else f"{name}: differs")
            for line in found[:20]:
                print(f"  {line}")
            failed |= bool(found)
            sys.stdout.flush()
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
