"""The generative statement, and what was learnt of its latents."""
