"""Variational inference and MAP: an ELBO, a guide, and the optimization of both."""
