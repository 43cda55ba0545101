"""RADIUS outpost."""
