"""Training of the assets: a small Stable Diffusion pipeline for any data set, and the oracle of the phantom."""
