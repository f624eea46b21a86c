"""Autoencoders of tokens behind one interface (`hyperrep.models.autoencoder`)."""
