"""Weights as a model sees them: tokens, scaling, augmented views."""
