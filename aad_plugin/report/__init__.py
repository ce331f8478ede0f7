"""A run's result as a page, as plots, and as a gate: over lm-eval results, samples, verdicts and traces.

aad report runs/today --output report.html
aad report --compare runs/yesterday runs/today --gate gate.yaml
"""
