"""Golden numbers: what studies measured at commit c330e99, which no later change of the program may alter."""
