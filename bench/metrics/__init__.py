"""The measures, as pure functions of arrays. Nothing here knows stages, files or data sets.

`average_precision`, `precision_recall` and `patient_bootstrap` score a classifier. `frechet`, `kernel` and `manifold`
compare synthetic with real images in a feature space, `neighbours` searches it, and `localisation` compares maps with
masks. The loss that trains classifiers is in `losses`. The files can be read in any order. Each measure is tested in
tests/reference against an independent implementation.
"""
