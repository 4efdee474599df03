"""Inference: variational fits and Markov chains that learn the latents of a model from ratings."""
