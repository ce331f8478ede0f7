"""What this package's lm-eval tasks do: answers by several strategies to one prompt, judged or held against labels."""
