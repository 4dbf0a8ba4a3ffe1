"""Runs a method under its contract and stores the synthetic images that it makes.

`Method`, `Context` and `Plan` are what the author of a method sees. `Augmented` is the stage that runs a method.
`LatentTable` holds the latents that several methods share, and `assign` applies a label policy.

Read in this order: method, augmented, batch_checks, kept_batches, label_policies, latents, unusable.
"""
