"""Measures a cell: scores of the classifier on test, and fidelity of the synthetic images.

`Scores` is the only stage that predicts test images. `Fidelity` compares synthetic with real images in the feature
space of an extractor; `Measures` computes its figures from arrays. The oracle judges images of the phantom.

Read in this order: scores, extractors, measures, fidelity, oracle, shipped_oracle.
"""
