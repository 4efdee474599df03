"""Moments of the score: sums over pairs, random quantities, expectations, quadrature."""
