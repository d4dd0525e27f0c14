"""The fast paths answer as transformers' own padded model, whatever the batches, prompts and cache."""
