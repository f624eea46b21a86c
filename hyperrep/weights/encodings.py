"""The encodings of the papers by name, as one cut of the rows at three widths."""

from __future__ import annotations

from typing import Literal

from hyperrep.weights.segments import segments_of
from hyperrep.weights.tokens import Tokeniser
from zookeeper.errors import InputError
from zookeeper.nets.layout import WeightLayout

Encoding = Literal["fixed", "neuron", "weight"]


def build_tokeniser(layout: WeightLayout, encoding: Encoding, width: int | None = None) -> Tokeniser:
    """Choose how rows of a layout become tokens.

    ``fixed`` cuts the run of every neuron or channel into tokens of the given width (SANE). ``neuron`` makes one
    token of each run; tokens are as wide as the widest neuron, and a model that maps each layer by a linear map of
    its own reads the real entries alone (`layer_widths`). ``weight`` makes one token of each weight. Source of the
    latter two: Schürholt et al. (2021, "Self-Supervised Representation Learning on Neural Network Weights"), Figure 2.

    Parameters
    ----------
    layout
        Columns of the rows.
    encoding
        Its name.
    width
        Needed for ``fixed``; elsewhere it follows from the layout and must be None.

    Raises
    ------
    InputError
        If the width is missing or given in vain, or the name is unknown.

    Examples
    --------
    >>> layout = WeightLayout.from_shapes({"a.weight": ((2, 3), "weight"), "b.weight": ((1, 2), "weight")})
    >>> [build_tokeniser(layout, name).mask.sum(1).tolist() for name in ("neuron", "weight")]
    [[3, 3, 2], [1, 1, 1, 1, 1, 1, 1, 1]]
    """
    if (width is None) == (encoding == "fixed"):
        expected = "a width" if encoding == "fixed" else "no width (it follows from the network)"
        raise InputError(f"tokens.width: encoding {encoding} needs {expected}, got {width}.")
    if encoding == "fixed":
        assert width is not None
        return Tokeniser(layout, width)
    if encoding == "neuron":
        return Tokeniser(layout, max(segment.run for segment in segments_of(layout, 1)))
    if encoding == "weight":
        return Tokeniser(layout, 1)
    raise InputError(f"tokens.encoding: unknown encoding {encoding!r}; expected fixed, neuron or weight.")


def layer_widths(tokeniser: Tokeniser) -> tuple[tuple[int, int], ...]:
    """Number of tokens and of real entries per token of every layer, where each run is one token.

    >>> layout = WeightLayout.from_shapes({"a.weight": ((2, 3), "weight"), "b.weight": ((1, 2), "weight")})
    >>> layer_widths(build_tokeniser(layout, "neuron"))
    ((2, 3), (1, 2))
    """
    if any(segment.chunks != 1 for segment in tokeniser.segments):
        raise InputError("layer_widths: a run is cut into several tokens. Use the encoding neuron.")
    return tuple((segment.num_tokens, segment.run) for segment in tokeniser.segments)
