"""Trains the assets: a small Stable Diffusion pipeline for any data set, and the phantom's oracle."""
