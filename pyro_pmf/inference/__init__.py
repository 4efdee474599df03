"""Losses and chains: how the latents of a model are learnt from ratings."""
