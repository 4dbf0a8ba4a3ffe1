"""The harness: stages, store, data sets, classifier, metrics, matrices, command line."""
