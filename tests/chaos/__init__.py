"""Studies under fire: real workers that are killed, paused and cut off, and must still end exactly.

    make chaos                                         ten runs of every scenario; appends to outcomes.jsonl, resumable
    python -m tests.chaos --runs 1 --only "disk full"
    python -m tests.chaos --table                      what has been run so far

`faults.py` is what happens inside a worker, `field.py` a storage with workers on it, `scenarios.py` what is done to
them. tests/test_chaos.py runs short ones in the suite.
"""
