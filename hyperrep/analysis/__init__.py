"""What zoos and latent spaces look like: spectrum, robustness, interpolation, drift, maps, variance."""
