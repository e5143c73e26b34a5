"""What the numbers say: the winner, its confirmation, contrasts, intervals."""
