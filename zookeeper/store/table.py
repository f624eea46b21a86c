"""The table beside the matrix: one row per checkpoint, typed columns, no weights.

Pandas takes .4 s to import, which every worker would feel before its first step: here it comes where a frame is made.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from zookeeper.errors import InputError, StoreError
from zookeeper.store.encoding import Floats

if TYPE_CHECKING:
    import pandas as pd

WEIGHTS = "weights"
IDENTITY = ("model_id", "epoch")
PROPERTIES = (
    "train_loss",
    "train_acc",
    "val_loss",
    "val_acc",
    "test_loss",
    "test_acc",
    "generalization_gap",
    "batch_loss",
)
PROVENANCE = ("split", "status", "cohort", "wall_time")
OK, DIVERGED = "ok", "diverged"


def factor_names(columns: Iterable[str]) -> tuple[str, ...]:
    """The generating factors among a table's columns: all but identity, properties and provenance.

    >>> factor_names(["model_id", "epoch", "lr", "init", "test_acc", "split"])
    ('lr', 'init')
    """
    other = {*IDENTITY, *PROPERTIES, *PROVENANCE}
    return tuple(name for name in columns if name not in other)


def make_table(
    columns: Mapping[str, Any] | pd.DataFrame,
    rows: Floats,
    *,
    cohort: str,
) -> pa.Table:
    """Check and type the table of ``rows`` [N, P].

    Integers become int64, floats float64, text string, truth values bool. ``cohort`` is filled in, and
    ``status`` if absent: ``diverged`` for a row with a non-finite weight, else ``ok``.

    Raises
    ------
    InputError
        If a column has the wrong length or no storable type, or ``model_id`` or ``epoch`` is missing.
    """
    given = {str(name): values for name, values in columns.items()}
    for name in IDENTITY:
        if name not in given:
            raise InputError(f"table: column {name!r} is missing; expected one entry per row.")
    if "status" not in given:
        finite = np.isfinite(rows).all(axis=1)
        given["status"] = np.where(finite, OK, DIVERGED)
    given["cohort"] = np.full(len(rows), cohort)
    arrays = {name: _typed(name, values, len(rows)) for name, values in given.items()}
    for name, wanted in (("model_id", pa.string()), ("epoch", pa.int64())):
        if arrays[name].type != wanted or arrays[name].null_count:
            raise InputError(f"table: column {name!r} must be {wanted} without gaps, got {arrays[name].type}.")
    order = [*IDENTITY, *factor_names(arrays), *PROPERTIES, *PROVENANCE]
    return pa.table({name: arrays[name] for name in order if name in arrays})


def concatenate(tables: Sequence[pa.Table]) -> pa.Table:
    """Stack tables of several blocks; columns a block lacks become null, int and float meet as float.

    Raises
    ------
    StoreError
        If a column holds text in one block and numbers in another.
    """
    try:
        return pa.concat_tables(tables, promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise StoreError(f"blocks with different column types cannot be read together ({error}).") from error


def to_frame(table: pa.Table) -> pd.DataFrame:
    """A pandas frame of the table, which is used up: text as categories, numbers where they lie in the table.

    A text column of a zoo repeats a few values; spelled out, the frame of millions of rows would be twice as
    large and, since fresh memory is slow, take several times as long to make. `widen` spells out.
    """
    for number, field in enumerate(table.schema):
        if pa.types.is_string(field.type):
            table = table.set_column(number, field.name, table.column(number).dictionary_encode())
    frame: pd.DataFrame = table.unify_dictionaries().to_pandas(split_blocks=True, self_destruct=True)
    return frame


def spell_out(table: pa.Table) -> pa.Table:
    """The table with dictionaries as text, as it is stored.

    >>> spell_out(pa.table({"init": pa.array(["normal", None]).dictionary_encode()})).schema.types
    [DataType(string)]
    """
    for number, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):
            table = table.set_column(number, field.name, table.column(number).cast(field.type.value_type))
    return table


def widen(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with categories spelled out as text; columns of other types are shared, not copied.

    >>> import pandas as pd
    >>> widen(pd.DataFrame({"lr": [0.1, 0.2], "init": pd.Categorical(["normal", None])})).dtypes.to_dict()
    {'lr': dtype('float64'), 'init': <StringDtype(na_value=nan)>}
    """
    import pandas as pd

    wide = frame.copy(deep=False)
    for name, column in frame.items():
        if isinstance(column.dtype, pd.CategoricalDtype):
            words = column.cat.categories.astype("str").array
            wide[name] = words.take(column.cat.codes.to_numpy(), allow_fill=True)
    return wide


def _typed(name: str, values: Any, num_rows: int) -> pa.Array:
    if name == WEIGHTS or name.startswith("_") or not name:
        raise InputError(f"table: column name {name!r} is reserved. Choose another name.")
    if isinstance(values, str) or not hasattr(values, "__len__"):
        raise InputError(f"table: column {name!r} must be a sequence of {num_rows} values, got {values!r}.")
    if len(values) != num_rows:
        raise InputError(f"table: column {name!r} has {len(values)} values; expected {num_rows}, one per row.")
    if isinstance(values, pa.ChunkedArray):
        return values.combine_chunks()  # a column of a stored table: typed already, nulls and NaN kept apart
    kind = getattr(getattr(values, "dtype", None), "kind", "O")
    if kind == "b":
        return pa.array(np.asarray(values), type=pa.bool_())
    if kind in "iu":
        return pa.array(np.asarray(values), type=pa.int64())
    if kind == "f":
        return pa.array(np.asarray(values, dtype=np.float64))
    try:
        array = pa.array(list(values), from_pandas=True)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise InputError(f"table: column {name!r} mixes types ({error}). Use one type.") from error
    if pa.types.is_integer(array.type):
        return array.cast(pa.int64())
    if pa.types.is_floating(array.type):
        return array.cast(pa.float64())
    if pa.types.is_large_string(array.type):
        return array.cast(pa.string())
    if pa.types.is_string(array.type) or pa.types.is_boolean(array.type) or pa.types.is_null(array.type):
        return array
    raise InputError(f"table: column {name!r} holds {array.type}; expected numbers, text or truth values.")
