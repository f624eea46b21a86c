"""Choose lines of a frame by an expression: pandas syntax, a closed scope and errors that help.

An expression sees the columns of the frame and the values passed with it, nothing else: no variable of
the caller, no attribute beyond a short list. So an expression from a command line or a file can select rows
and do no more.
"""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from zookeeper.errors import InputError
from zookeeper.store.table import widen

_METHODS = ("abs", "between", "contains", "endswith", "isin", "isna", "notna", "startswith", "str")
_MANY = 2000


def select(frame: pd.DataFrame, expression: str, values: Mapping[str, Any]) -> npt.NDArray[np.bool_]:
    """Evaluate a condition for every line; bool [N].

    Columns appear by name, ``values`` as ``@name``. Comparisons, ``and``, ``or``, ``not``, ``in``,
    arithmetic and the methods ``isin``, ``between``, ``isna``, ``notna``, ``abs``, ``str.contains``,
    ``str.startswith`` and ``str.endswith`` are available.

    Raises
    ------
    InputError
        If the expression is no valid condition; names the column or value that is unknown.

    Examples
    --------
    >>> frame = pd.DataFrame({"lr": [0.1, 0.01, 0.01], "init": ["normal", "normal", "uniform"]})
    >>> select(frame, "lr < @top and init == 'normal'", {"top": 0.05}).tolist()
    [False, True, False]
    """
    where = f"query {expression!r}"
    _check_tokens(expression, where)
    try:
        mentioned = widen(frame[[name for name in frame.columns if str(name) in expression]])  # and maybe more
        result: Any = mentioned.eval(
            expression, engine="python", parser="pandas", local_dict=dict(values), global_dict={}
        )
    except NameError as error:
        raise InputError(_unknown_name(str(error), frame, values, where)) from error
    except (SyntaxError, TypeError, ValueError, KeyError, AttributeError, NotImplementedError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{where}: cannot be evaluated ({reason}). "
            "Write conditions like test_acc > .9 and init == 'uniform'; put text in quotes."
        ) from error
    if not isinstance(result, pd.Series) or not pd.api.types.is_bool_dtype(result.dtype):
        raise InputError(
            f"{where}: expected a condition that is true or false for every row, got values. "
            "Compare them with something, such as epoch == 50."
        )
    return result.fillna(False).to_numpy(dtype=np.bool_)


def suggest(name: str, known: Iterable[object]) -> str:
    """A sentence that offers the nearest known names, or lists some.

    >>> suggest("tset", ["train", "val", "test"])
    'Did you mean test?'
    >>> suggest("x", ["train", "val", "test"])
    'Known: train, val, test.'
    """
    names = [str(entry) for entry in known]
    near = [entry for entry in names if name and entry.startswith(name)][:3]
    near = near or get_close_matches(name, names[:_MANY], n=3, cutoff=0.5)
    if near:
        return f"Did you mean {' or '.join(near)}?"
    shown = ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
    return f"Known: {shown}." if names else "There are none."


def _check_tokens(expression: str, where: str) -> None:
    plain = re.sub(r"`[^`]*`", "column", expression)
    try:
        tokens = [t for t in tokenize.generate_tokens(io.StringIO(plain).readline) if t.string.strip()]
    except (tokenize.TokenError, SyntaxError) as error:
        raise InputError(f"{where}: not complete ({error.args[0]}). Check brackets and quotes.") from error
    if not tokens:
        raise InputError(f"{where}: is empty; expected a condition such as epoch == 50.")
    depth = 0
    for before, token in zip([None, *tokens], tokens, strict=False):
        depth += (token.string in "([{") - (token.string in ")]}") if token.type == tokenize.OP else 0
        if token.string == "=" and depth == 0:
            raise InputError(f"{where}: '=' assigns; write '==' to compare.")
        attribute = before is not None and before.string == "."
        if token.type == tokenize.NAME and attribute and token.string not in _METHODS:
            raise InputError(f"{where}: attribute {token.string!r} is not available. {suggest(token.string, _METHODS)}")


def _unknown_name(message: str, frame: pd.DataFrame, values: Mapping[str, Any], where: str) -> str:
    found = re.search(r"'([^']+)'", message)
    name = found.group(1) if found else "?"
    if "local variable" in message:
        return f"{where}: @{name} has no value. Pass it: query(..., {name}=...). {suggest(name, values)}"
    return f"{where}: unknown column {name!r}. {suggest(name, frame.columns)}"
