"""Autoencoders over tokens."""
