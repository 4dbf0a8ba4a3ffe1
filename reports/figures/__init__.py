"""The report's figures: each is described once and drawn in a light and a dark theme."""
