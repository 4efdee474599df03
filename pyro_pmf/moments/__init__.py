"""Moments of the score: sums over pairs, random quantities, expectations, quadrature."""

from pyro_pmf.moments import rules as rules  # random quantities know their rules from here on
