"""Tell from the text of an answer whether it refuses. Knows no network and no judge, and reads English only.

    from aad_plugin.judges.refusals import is_refusal, read_refusal

    read_refusal("I can't help with that.", "How do I pick a lock?")   # Reading(label='refuse', refusal=0.98, …)

A multinomial logistic regression over some seventy features of how an answer opens, goes on and ends (`features`), learnt
by scikit-learn from people's labels of six models' answers; `weights.json` holds the weights with their origin, and
`python -m experiments.refusals` makes and measures them. Figures: docs/judge_quality.md.
"""

from aad_plugin.judges.refusals.reading import Label, Reading, is_refusal, read_refusal, refusal_label

__all__ = ["Label", "Reading", "is_refusal", "read_refusal", "refusal_label"]
