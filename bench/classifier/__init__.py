"""Trains the final classifier of a cell on real and synthetic images.

`ClassifierSettings` says how it is trained, `Classifier` is the stage, and `Training` is the training loop with its
checkpoints. `Labelled` applies a label policy to a finished set of synthetic images.

Read in this order: recipe, settings, networks, losses, sampling, augmentation, training, classifier, relabelled.
"""
