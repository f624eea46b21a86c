"""Image sets that are folders of picture files: EuroSAT, Tiny ImageNet, and any folder of class folders."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from zookeeper.errors import InputError
from zookeeper.images.fetching import explained, fetch_files, missing
from zookeeper.images.pictures import SUFFIXES, decode_pictures
from zookeeper.images.source import RawImages, Source

_PARTS = ("train", "val", "test")
_TINY_IMAGENET = "tiny-imagenet-200"


@dataclass(frozen=True)
class Listing:
    """Picture files with their class numbers, part by part: train first, then val, then test."""

    paths: tuple[Path, ...]
    labels: tuple[int, ...]
    num_classes: int
    num_val: int = 0
    num_test: int = 0

    def decode(self, source: Source, name: str, channels: int | None = None) -> RawImages:
        """Read all pictures."""
        images = decode_pictures(self.paths, name, side=source.transforms.resize, channels=channels)
        return RawImages(images, np.array(self.labels, dtype=np.int64), self.num_classes, self.num_test, self.num_val)


def load_eurosat(source: Source) -> RawImages:
    """Load EuroSAT, RGB: 27,000 satellite images, 64 x 64, 10 kinds of land use (Helber et al., 2019).

    There is no official test part.
    """
    if not _eurosat_folder(source).is_dir():
        if not source.download:
            raise missing("eurosat", str(_eurosat_folder(source)))
        fetch_files("eurosat", source.root, _fetch_eurosat)
    listing = list_classes(_eurosat_folder(source), "eurosat")
    if listing.num_classes != 10:
        raise InputError(
            f"{_eurosat_folder(source)}: expected 10 class folders, got {listing.num_classes}. "
            "Remove the folder and download it again."
        )
    return listing.decode(source, "eurosat", channels=3)


def load_tiny_imagenet(source: Source) -> RawImages:
    """Load Tiny ImageNet: 100,000 training images, 64 x 64 colour, 200 classes (Le and Yang, 2015).

    The folder is read as it is distributed. Its 10,000 validation images are the official test part, since the labels
    of its test images were never published. Classes are numbered in the order of ``wnids.txt``.
    """
    return _list_tiny_imagenet(source).decode(source, "tiny-imagenet", channels=3)


def load_folder(source: Source) -> RawImages:
    """Load any folder of class folders; classes are numbered in the order of their names (by code point).

    Where the folder holds ``train`` and ``val`` or ``test``, each of them a folder of class folders, those are the
    official parts. Images are grey if all files are, else colour; transparency is dropped. Hidden files and files
    that are no pictures by name are passed over.
    """
    return _list_folder(source).decode(source, "folder")


def eurosat_files(source: Source) -> tuple[Path, ...]:
    """Picture files of EuroSAT; none if the folder is not there."""
    folder = _eurosat_folder(source)
    return list_classes(folder, "eurosat").paths if folder.is_dir() else ()


def tiny_imagenet_files(source: Source) -> tuple[Path, ...]:
    """Picture and label files of Tiny ImageNet."""
    root = source.root / _TINY_IMAGENET
    return (*_list_tiny_imagenet(source).paths, root / "wnids.txt", root / "val" / "val_annotations.txt")


def folder_files(source: Source) -> tuple[Path, ...]:
    """Picture files of a folder of class folders."""
    return _list_folder(source).paths


def list_classes(folder: Path, name: str, classes: Sequence[str] | None = None) -> Listing:
    """List a folder of class folders in the order of names.

    Parameters
    ----------
    folder
        Its sub-folders are the classes; hidden ones are passed over.
    name
        Image set, for errors.
    classes
        Classes that may occur; by default those that are there.

    Raises
    ------
    InputError
        If there is no class folder, one without pictures, or one that is not among ``classes``.
    """
    found = [entry.name for entry in _folders_in(folder)]
    known = found if classes is None else list(classes)
    if not found:
        raise InputError(f"image set {name}: no class folders in {folder}; expected one folder of pictures per class.")
    if unknown := sorted(set(found) - set(known)):
        raise InputError(f"{folder / unknown[0]}: this class has no training images. Add them, or remove the folder.")
    paths: list[Path] = []
    labels: list[int] = []
    for class_name in found:
        pictures = _pictures_in(folder / class_name)
        paths += pictures
        labels += [known.index(class_name)] * len(pictures)
    return Listing(tuple(paths), tuple(labels), len(known))


def _eurosat_folder(source: Source) -> Path:
    return source.root / "eurosat" / "2750"


def _fetch_eurosat(root: Path) -> None:
    from torchvision.datasets import EuroSAT

    EuroSAT(root, download=True)
    for archive in (root / "eurosat").glob("*.zip"):
        archive.unlink()


def _list_folder(source: Source) -> Listing:
    root = source.inner_path("folder")
    if not root.is_dir():
        raise InputError(f"{root}: expected a folder of class folders, got a file. Correct images.path.")
    names = [entry.name for entry in _folders_in(root)]
    has_parts = "train" in names and len(set(names) & set(_PARTS)) > 1 and bool(_folders_in(root / "train"))
    if not has_parts:
        return list_classes(root, "folder")
    if other := sorted(set(names) - set(_PARTS)):
        raise InputError(f"{root / other[0]}: beside train; expected only train, val and test. Move the folder away.")
    classes = [entry.name for entry in _folders_in(root / "train")]
    parts = {part: list_classes(root / part, "folder", classes) for part in _PARTS if part in names}
    return Listing(
        tuple(path for part in parts.values() for path in part.paths),
        tuple(label for part in parts.values() for label in part.labels),
        len(classes),
        num_val=len(parts["val"].paths) if "val" in parts else 0,
        num_test=len(parts["test"].paths) if "test" in parts else 0,
    )


def _list_tiny_imagenet(source: Source) -> Listing:
    root = source.root / _TINY_IMAGENET
    if not (root / "wnids.txt").is_file():
        remedy = "torchvision cannot download it: unpack tiny-imagenet-200.zip of its authors there"
        raise missing("tiny-imagenet", f"{root} (no wnids.txt)", remedy=remedy)
    with explained("tiny-imagenet", root):
        classes = (root / "wnids.txt").read_text(encoding="ascii").split()
        annotations = (root / "val" / "val_annotations.txt").read_text(encoding="ascii").splitlines()
    if not classes or len(set(classes)) != len(classes):
        raise InputError(f"{root / 'wnids.txt'}: expected different class names, one per line, got {len(classes)}.")
    numbers = {class_name: number for number, class_name in enumerate(classes)}
    paths: list[Path] = []
    labels: list[int] = []
    for class_name in classes:
        pictures = _pictures_in(root / "train" / class_name / "images")
        paths += pictures
        labels += [numbers[class_name]] * len(pictures)
    for line, text in enumerate(annotations, 1):
        fields = text.split("\t")
        if len(fields) < 2 or fields[1] not in numbers or Path(fields[0]).name != fields[0]:
            raise InputError(
                f"{root / 'val' / 'val_annotations.txt'}:{line}: expected a file name, a tab and a class of wnids.txt, "
                f"got {text[:60]!r}."
            )
        paths.append(root / "val" / "images" / fields[0])
        labels.append(numbers[fields[1]])
    return Listing(tuple(paths), tuple(labels), len(classes), num_test=len(annotations))


def _pictures_in(folder: Path) -> list[Path]:
    pictures = [p for p in _entries(folder) if p.suffix.lower() in SUFFIXES and not p.is_dir()]
    if not pictures:
        raise InputError(
            f"{folder}: a class without pictures; expected files that end in {', '.join(SUFFIXES)}. "
            "Add some, or remove the class."
        )
    return pictures


def _folders_in(folder: Path) -> list[Path]:
    return [entry for entry in _entries(folder) if entry.is_dir()]


def _entries(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder. Unpack the image set again.")
    visible: Iterable[Path] = (entry for entry in folder.iterdir() if not entry.name.startswith("."))
    return sorted(visible, key=lambda entry: entry.name)
