"""What proposes the configurations of trials, and what ends a trial early: samplers and pruners."""
