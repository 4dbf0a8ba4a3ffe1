"""Measures: each a function of plain arrays, checked against an independent implementation in tests/reference."""
