"""Several zoos as one: one frame that says where each checkpoint comes from, weights layout by layout."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from zookeeper.errors import InputError
from zookeeper.store.encoding import Encoding
from zookeeper.store.header import ZooHeader
from zookeeper.store.table import IDENTITY, PROPERTIES, PROVENANCE, factor_names
from zookeeper.zoo.sources import JointSource
from zookeeper.zoo.view import ZOO, Zoo

IMAGES = "images"


def concatenate(zoos: Mapping[str, Zoo] | Sequence[Zoo]) -> Zoo:
    """Put zoos one after another, whatever their architectures, image sets and columns; copies nothing.

    The result is a view as any other: query it, divide it, read one model, build a network. Two columns are new:
    ``zoo``, the name given to each part, and the factor ``images``, the image set its networks take. A column that a
    zoo lacks is missing there; integers and floats meet as floats. Weights of several layouts do not fit into one
    matrix: query one architecture, or go through `Zoo.by_layout`.

    Parameters
    ----------
    zoos
        Views by name; of a sequence, the zoos' own names, which must differ. A concatenation brings its own parts.

    Raises
    ------
    InputError
        If there is no zoo, a name comes twice, or a column holds text in one zoo and numbers in another.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from zookeeper import WeightLayout, write_rows
    >>> folder = tempfile.TemporaryDirectory()
    >>> layouts = [WeightLayout.from_shapes({"fc.weight": ((1, width), "weight")}) for width in (2, 3)]
    >>> small = write_rows(Path(folder.name) / "small", [[1, 2], [3, 4]], {"test_acc": [0.5, 0.7]}, layouts[0])
    >>> large = write_rows(Path(folder.name) / "large", [[5, 6, 7]], {"test_acc": [0.9]}, layouts[1])
    >>> both = concatenate([small, large])
    >>> both.query("test_acc > .6").frame["zoo"].tolist()
    ['small', 'large']
    >>> [part.weights().tolist() for part in both.by_layout().values()]
    [[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0, 7.0]]]
    >>> folder.cleanup()
    """
    given = list(zoos.items()) if isinstance(zoos, Mapping) else [(zoo.header.name, zoo) for zoo in zoos]
    if not given:
        raise InputError("concatenate: expected at least one zoo, got none.")
    parts: dict[str, ZooHeader] = {}
    for name, zoo in given:
        for own, header in _parts_of(name, zoo).items():
            if own in parts:
                raise InputError(
                    f"concatenate: two zoos are called {own!r}; expected distinct names. "
                    "Pass a mapping of names to zoos."
                )
            parts[own] = header
    joint = JointSource([zoo._reader for _, zoo in given])
    rows = [zoo._rows + start for (_, zoo), start in zip(given, joint.starts.tolist(), strict=False)]
    return Zoo(
        source=" + ".join(zoo.source for _, zoo in given),
        header=_joint_header(parts),
        _root=None,
        _table=_joint_frame([_labelled(name, zoo) for name, zoo in given]),
        _rows=np.concatenate(rows),
        _reader=joint,
        _parts=parts,
    )


def _parts_of(name: str, zoo: Zoo) -> dict[str, ZooHeader]:
    """The zoos that a view holds rows of, or the one it is of."""
    if not zoo._parts:
        return {name: zoo.header}
    return {str(part): zoo._parts[part] for part in zoo._frame[ZOO].unique()}


def _labelled(name: str, zoo: Zoo) -> pd.DataFrame:
    """A zoo's frame with the columns that a concatenation adds."""
    frame = zoo.frame
    if zoo._parts:
        return frame
    if ZOO in frame:
        raise InputError(f"{zoo.source}: has a column {ZOO!r} of its own, which a concatenation needs. Rename it.")
    frame[ZOO] = name
    if IMAGES not in frame:
        frame[IMAGES] = None if zoo.header.image is None else zoo.header.image.name
    return frame


def _joint_frame(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    columns = dict.fromkeys(str(name) for frame in frames for name in frame.columns)
    for name in columns:
        kinds = {_kind(frame[name]) for frame in frames if name in frame and frame[name].notna().any()}
        if len(kinds) > 1:
            raise InputError(
                f"concatenate: column {name!r} holds {' here and '.join(sorted(kinds))} there; expected one kind."
            )
    # zoos in which nothing is known about a column have no say in its type
    known = [frame.dropna(axis="columns", how="all") for frame in frames if len(frame)]
    joint = pd.concat(known or frames, ignore_index=True)
    order = [*IDENTITY, *factor_names(name for name in columns if name != ZOO), *PROPERTIES, *PROVENANCE, ZOO]
    return joint.reindex(columns=[name for name in order if name in columns])


def _kind(column: pd.Series) -> str:
    if pd.api.types.is_bool_dtype(column.dtype):
        return "truth values"
    return "numbers" if pd.api.types.is_numeric_dtype(column.dtype) else "text"


def _joint_header(parts: Mapping[str, ZooHeader]) -> ZooHeader:
    headers = list(parts.values())
    images = [header.image for header in headers]
    return ZooHeader(
        name=" + ".join(parts),
        cohorts={},
        layouts={digest: layout for header in headers for digest, layout in header.layouts.items()},
        image=images[0] if all(image == images[0] for image in images) else None,
        kind="concatenated",
        provenance={"zoos": {name: header.digest for name, header in parts.items()}},
        store=_widest(header.store for header in headers),
    )


def _widest(encodings: Iterable[Encoding]) -> Encoding:
    """The encoding that holds most: readers choose the type of what they read by it."""
    return max(encodings, key=lambda encoding: encoding.itemsize)
