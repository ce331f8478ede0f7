"""The paper's experiments on any pair: plan, answers, oracle rewards, tables and plots (docs/study.md)."""
