"""Leagues: many systems on one scale, from any set of pairwise verdicts. Knows verdicts and numbers, no judge at work.

`battles` reads verdicts, `fit` estimates, `table` says how sure that is, `style` takes the answers' dress into account,
`elo` is the sequential rating.
"""
