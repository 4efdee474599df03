"""Predictions of a fitted model: ratings, scores, recommendations, effects."""
