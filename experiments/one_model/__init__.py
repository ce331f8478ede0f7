"""AAD's gain at greedy's price: every way to make one model of a pair, beside AAD itself, in one table."""
