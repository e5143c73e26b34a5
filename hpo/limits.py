"""The largest and smallest numbers that a user can ask for; what lies beyond is a slip, or cannot be computed."""

from __future__ import annotations

TRIALS = 1_000_000  # of a study
ROUNDS = 10_000  # of a configuration: 31 MB of pairs for ten
ROUND_NUMBER = 1_000_000_000
COUNT = 1_000_000  # of anything else that a study counts: epochs, pairs of a batch, steps
SEED = 2**63 - 1  # the largest integer of TOML
RUNGS = 100  # that successive halving leaves out: each multiplies the epochs before it asks
CANDIDATES = 10_000  # that TPE looks at: it compares each with every trial
TRIAL_NUMBER = 2**31 - 1  # PostgreSQL's integer
WORKERS = 512  # processes under one parent
TRIALS_PER_GPU = 64  # at once, in one process
TOP = 1000  # configurations to confirm
STEPS = 100_000  # of a range test
EXAMPLES_BYTES = 1_000_000_000  # of what is kept of a trial's test examples, unpacked
FEWEST_ROUNDS = 3  # for an interval: of two, Student's t makes a tenfold one
FEWEST_TO_TELL = 6  # for a difference to be significant: 2 / 2^6 is below 0.05, 2 / 2^5 is not
FEWEST_FRESH_ROUNDS = 5  # of a confirmation, whose interval is what it is made for

SMALLEST, LARGEST = 1e-30, 1e9  # of rates and factors: what comes out of a step is still a number of float32
SHORTEST_SECONDS, LONGEST_SECONDS = 0.01, 31_536_000.0  # a year
