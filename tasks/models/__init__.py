"""All that knows a model family: loading, prompts, features, training."""
