"""The making of `judges/refusals/weights.json`, and its measurement on models, types of prompt and halves left out."""
