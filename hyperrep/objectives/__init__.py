"""The parts of the training loss and their composition."""
