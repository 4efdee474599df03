"""The generative model, and the posterior of its latents."""
