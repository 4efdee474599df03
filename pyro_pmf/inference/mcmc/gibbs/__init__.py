"""The blocked Gibbs sampler: draws from the exact posterior of a `PMF`, whole rows at a time."""
