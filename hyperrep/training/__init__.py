"""Training a hyper-representation, checkpoints, the saved folder."""
