"""Variational inference and MAP: an ELBO, a guide, and the steps that raise it."""
