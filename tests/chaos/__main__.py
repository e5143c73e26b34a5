"""Plays scenarios, as often as asked for, and keeps a line of each in a file; what the file has is not played again."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.chaos.arena import Arena, Kind
from tests.chaos.scenarios import SCENARIOS, Scenario
from tests.postgres import TemporaryPostgres

FILE = Path(__file__).with_name("outcomes.jsonl")


def main() -> int:
    """Returns 0 where every run that was asked for went well."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--runs", type=int, default=10, help="of each scenario and database (default: %(default)s)")
    parser.add_argument("--only", action="append", help="a scenario, or the beginning of its name; can be repeated")
    parser.add_argument("--file", type=Path, default=FILE, help="of outcomes, appended to (default: %(default)s)")
    parser.add_argument("--table", action="store_true", help="print what the file has, and play nothing")
    chosen = parser.parse_args()
    if chosen.table:
        print(table(read(chosen.file)))
        return 0
    server = TemporaryPostgres(listen="*")
    went_well = True
    try:
        for seed in range(chosen.runs):
            for scenario in SCENARIOS:
                if not chosen.only or any(scenario.name.startswith(name) for name in chosen.only):
                    for kind in scenario.kinds:
                        went_well &= play(scenario, kind, seed, server, chosen.file)
    finally:
        server.remove()
    return 0 if went_well else 1


def play(scenario: Scenario, kind: Kind, seed: int, server: TemporaryPostgres, file: Path) -> bool:
    """Plays a scenario, unless the file has it; says whether it went well."""
    this = {"scenario": scenario.name, "kind": kind, "seed": seed}
    if any(line["ok"] and line.items() >= this.items() for line in read(file)):
        return True
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="hpo-chaos-") as folder:
        try:
            ok, evidence = True, scenario.play(Arena(kind, Path(folder), seed, server))
        except Exception as error:
            ok, evidence = False, f"{type(error).__name__}: {error}"
    outcome = {
        **this,
        "ok": ok,
        "seconds": round(time.monotonic() - began, 1),
        "evidence": evidence,
        "commit": commit(),
    }
    with file.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(outcome) + "\n")
    print(
        f"{'ok    ' if ok else 'FAILED'} {scenario.name:34} {kind:10} {seed:3} {outcome['seconds']:6.1f} s  {evidence}"
    )
    sys.stdout.flush()
    return ok


def read(file: Path) -> list[dict[str, Any]]:
    """Returns the outcomes in a file."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []


def table(outcomes: list[dict[str, Any]]) -> str:
    """Returns a table: of how many runs of each scenario went well, by database."""
    runs = Counter((line["scenario"], line["kind"]) for line in outcomes)
    good = Counter((line["scenario"], line["kind"]) for line in outcomes if line["ok"])
    rows = ["| scenario | SQLite | PostgreSQL |", "|---|---|---|"]
    for scenario in SCENARIOS:
        cells = [
            f"{good[scenario.name, kind]} of {runs[scenario.name, kind]}" if kind in scenario.kinds else ""
            for kind in ("sqlite", "postgresql")
        ]
        rows.append(f"| {scenario.name} | {' | '.join(cells)} |")
    return "\n".join(rows)


def commit() -> str:
    """Returns the commit that is played, with a plus where something is changed."""
    described = subprocess.run(["git", "describe", "--always", "--dirty=+"], capture_output=True, text=True, check=True)
    return described.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
