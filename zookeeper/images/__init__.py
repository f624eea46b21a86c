"""Labelled image sets: digits and Tetris without files, MNIST, Fashion-MNIST and CIFAR-10; splits and scaling."""

from zookeeper.images.catalogue import image_set_names, load_images
from zookeeper.images.imageset import ImageSet

__all__ = ["ImageSet", "image_set_names", "load_images"]
