"""Markov chains that draw from the exact posterior."""
