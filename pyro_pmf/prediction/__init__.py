"""Questions that a fitted model answers: predictions, scores, recommendations, effects."""
