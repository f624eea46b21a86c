"""What a network is: architectures, the layout of its weights, its graph, symmetries and initialisation."""
