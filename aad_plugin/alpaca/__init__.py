"""AlpacaEval: from a pair to a leaderboard submission, and the rules such a submission is held to.

Importing this package loads neither torch nor transformers nor alpaca_eval.
"""
