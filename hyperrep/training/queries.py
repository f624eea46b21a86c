"""Where the images come from that the behavioural part compares networks on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from hyperrep.config import LossSection, QuerySection
from hyperrep.config.loss import NOISE, ZOO
from hyperrep.training.streams import keyed_generator
from zookeeper.errors import InputError
from zookeeper.images import ImageSet, Transforms, load_images

MAX_IMAGES = 10_000  # of another image set; float32, so 123 MB of 3 x 32 x 32


def draw_queries(
    loss: LossSection, zoo_images: torch.Tensor, others: Mapping[str, torch.Tensor], *, seed: int, step: int
) -> torch.Tensor:
    """Draw the queries of a step, ``[B, C, H, W]``, each source from its own key, without replacement.

    Source: section 3 and appendix D.3 of "Structure and Behavior in Weight Space Representation Learning".

    Parameters
    ----------
    loss
        Number of queries, sources and shares.
    zoo_images
        Images of the zoo ``[n, C, H, W]``; they also set the range of noise.
    others
        Images of the other sources by `QuerySection.key`, in the same form.
    seed, step
        Together with the place of a source among the sources, the key of its draw.

    Examples
    --------
    >>> loss = LossSection(gamma=0, beta=0, queries=4, query_set=(QuerySection(), QuerySection(source="noise")))
    >>> images = draw_queries(loss, torch.tensor([0.0, 0.0, 9.0]).view(3, 1, 1, 1), {}, seed=0, step=0)
    >>> images.shape, bool(((images[2:] > 0) & (images[2:] < 9)).all())
    (torch.Size([4, 1, 1, 1]), True)
    """
    drawn = []
    for number, (source, count) in enumerate(zip(loss.query_set, loss.query_counts, strict=True)):
        generator = keyed_generator(seed, "queries" if number == 0 else f"queries {number}", step)
        if source.source == NOISE:
            low, high = (edge(zoo_images, (0, 2, 3), keepdim=True) for edge in (torch.amin, torch.amax))
            uniform = torch.rand(count, *zoo_images.shape[1:], generator=generator).to(zoo_images)
            drawn.append(low + (high - low) * uniform)
        else:
            images = zoo_images if source.source == ZOO else others[source.key]
            chosen = torch.randperm(len(images), generator=generator)[:count]
            drawn.append(images[chosen.to(images.device)])
    return drawn[0] if len(drawn) == 1 else torch.cat(drawn)


def check_queries(loss: LossSection, zoo_images: torch.Tensor, others: Mapping[str, torch.Tensor]) -> None:
    """Raise an InputError if a source is missing, holds too few images, or images of another shape."""
    for number, (source, count) in enumerate(zip(loss.query_set, loss.query_counts, strict=True)):
        if source.source == NOISE:
            continue
        images = zoo_images if source.source == ZOO else others.get(source.key)
        if images is None:
            raise InputError(
                f"fit: loss.query_set[{number}]: expected images of {source.key}, got those of "
                f"{', '.join(others) or 'nothing'}. Pass them as query_images."
            )
        if images.shape[1:] != zoo_images.shape[1:]:
            raise InputError(
                f"fit: loss.query_set[{number}]: images of {source.key} are {tuple(images.shape[1:])}; expected "
                f"{tuple(zoo_images.shape[1:])} like those of the zoo."
            )
        if count > len(images):
            what = "the number of query images" if source.source == ZOO else f"the images of {source.key}"
            raise InputError(f"fit: loss.queries: expected at most {len(images)} ({what}), got {count}.")


def load_query_images(source: QuerySection, zoo: ImageSet) -> torch.Tensor:
    """Load the train part of another image set as a network of the zoo would see it, ``[n, C, H, W]``.

    Images are resized to the zoo's (bilinear), turned grey or repeated to its channels, and normalised with its
    mean and deviation. At most 10,000 are taken, evenly spread over the set.

    Raises
    ------
    InputError
        If files are missing, the zoo's images are not square, or the channels cannot be matched.
    """
    channels, height, width = zoo.image_shape
    if height != width:
        raise InputError(
            f"loss.query_set: images of {source.key} can only be resized to squares; the zoo's are {height} x {width}. "
            "Use the zoo's own images or noise."
        )
    loaded = load_images(
        source.source,
        split=None,
        seed=0,
        root=None if source.root is None else Path(source.root),
        path=source.path,
        transforms=Transforms(resize=height, greyscale=channels == 1),
    )
    numbers = loaded.indices["train"]
    if len(numbers) > MAX_IMAGES:
        numbers = numbers[np.linspace(0, len(numbers) - 1, MAX_IMAGES).round().astype(np.int64)]
    pixels = torch.from_numpy(loaded.images[numbers].astype(np.float32)) / 255
    if pixels.shape[1] == 1:
        pixels = pixels.expand(-1, channels, -1, -1)
    if pixels.shape[1] != channels:
        raise InputError(
            f"loss.query_set: images of {source.key} have {pixels.shape[1]} channels; expected 1 or {channels}."
        )
    mean, std = (torch.tensor(values).view(1, channels, 1, 1) for values in (zoo.mean, zoo.std))
    return ((pixels - mean) / std).contiguous()
