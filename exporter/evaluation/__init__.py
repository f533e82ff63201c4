"""How well a model predicts text: perplexity, distances, last words, tasks."""
