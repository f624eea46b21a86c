"""Labelled image sets: bundled, published, or any folder or arrays; their transforms, splits and scaling."""

from zookeeper.images.catalogue import image_set_names, load_images
from zookeeper.images.fetching import ROOT_VARIABLE, find_root
from zookeeper.images.imageset import ImageSet
from zookeeper.images.transforms import Transforms

__all__ = ["ROOT_VARIABLE", "ImageSet", "Transforms", "find_root", "image_set_names", "load_images"]
