"""Official protocols: how Arena-Hard, MT-Bench and AlpacaEval ask, count and keep verdicts.

Each writes the files that upstream's own scorer reads, and computes the figures that it prints. Prompts are this package's
own (upstream's are theirs to publish), so figures are comparable among runs by one judge and template, not with a
leaderboard.
"""
