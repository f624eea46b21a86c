"""The sections about tokens, windows and the autoencoder, with the sizes of the papers as presets."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from hyperrep.config.numbers import NonNegativeInt, PositiveInt
from zookeeper.spec.document import Section
from zookeeper.spec.problems import Problem, raise_problems

# paper000: its appendix B. sane: the published training of SANE on ResNet-18 (tokens of 288, windows of 256).
PRESETS: Mapping[str, Mapping[str, int]] = MappingProxyType(
    {
        "paper000": {"d_model": 256, "num_heads": 8, "num_layers": 8, "latent": 64},
        "sane": {"d_model": 2048, "num_heads": 16, "num_layers": 8, "latent": 128},
    }
)


class TokenSection(Section):
    """How rows are cut into tokens.

    ``fixed``: tokens of the given ``width`` (SANE). ``neuron``: one token per neuron or channel, with a linear
    map of its own for each layer; ``weight``: one token per weight (paper 002). The latter two have no width to set.
    """

    encoding: Literal["fixed", "neuron", "weight"] = "fixed"
    width: PositiveInt | None = None

    @model_validator(mode="after")
    def _check_width(self) -> TokenSection:
        if (self.width is None) == (self.encoding == "fixed"):
            expected = "a number of weights" if self.encoding == "fixed" else f"none with encoding {self.encoding}"
            got = "nothing" if self.width is None else str(self.width)
            raise_problems([Problem(("width",), "the width of a token is wrong", expected, got)])
        return self


class WindowSection(Section):
    """Train on random windows of ``size`` consecutive tokens; encode and decode in windows with a halo.

    Of a window only the centre is kept: ``halo`` tokens on either side lend it context and are dropped.
    """

    size: PositiveInt
    halo: NonNegativeInt = 0

    @model_validator(mode="after")
    def _check_halo(self) -> WindowSection:
        if 2 * self.halo >= self.size:
            expected = f"less than half the window, at most {(self.size - 1) // 2}"
            raise_problems([Problem(("halo",), "nothing of a window is left to keep", expected, str(self.halo))])
        return self


class ModelSection(Section):
    """Kind and sizes of the autoencoder.

    ``sane``: one latent of ``latent`` numbers per token. ``attention`` (paper 002): one latent per network, with
    or without a ``compression_token``. ``feedforward`` (paper 002): ``num_layers`` linear maps with ReLU each way.
    ``bounded`` squashes latents into (-1, 1). ``preset`` fills in sizes that are not given. ``positions:
    sinusoidal`` needs no table as long as the network. ``mlp_width`` is 4 times ``d_model`` by default,
    ``projection`` the width of the head for the contrastive loss. ``dropout`` is the share of what a transformer block
    adds to its tokens that is dropped in training. ``statistics`` shows the encoder how large the entries and the
    biases of every token are, which layer norm hides.
    """

    kind: Literal["sane", "attention", "feedforward"] = "sane"
    preset: Literal["paper000", "sane"] | None = None
    d_model: PositiveInt | None = None
    num_heads: PositiveInt | None = None
    num_layers: PositiveInt
    latent: PositiveInt
    mlp_width: PositiveInt | None = None
    compression_token: bool = False
    bounded: bool = False
    positions: Literal["learned", "sinusoidal"] = "learned"
    projection: PositiveInt = 30
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    statistics: bool = False

    @model_validator(mode="before")
    @classmethod
    def _fill_sizes(cls, value: Any) -> Any:
        if not isinstance(value, dict) or value.get("preset") not in PRESETS:
            return value
        given = {key: part for key, part in value.items() if part is not None}
        return {**PRESETS[value["preset"]], **given}

    @model_validator(mode="after")
    def _check_sizes(self) -> ModelSection:
        problems = []
        feedforward = self.kind == "feedforward"
        for name in ("d_model", "num_heads"):
            if (getattr(self, name) is None) != feedforward:
                expected = "nothing with kind feedforward" if feedforward else f"a number with kind {self.kind}"
                got = "nothing" if not feedforward else str(getattr(self, name))
                problems.append(Problem((name,), "the size does not fit the kind of model", expected, got))
        if self.d_model is not None and self.num_heads is not None and self.d_model % self.num_heads:
            expected, got = f"a divisor of d_model {self.d_model}", str(self.num_heads)
            problems.append(Problem(("num_heads",), "heads do not divide the model width", expected, got))
        if self.compression_token and self.kind != "attention":
            problems.append(Problem(("compression_token",), "only attention has one", "kind attention", self.kind))
        if self.positions != "learned" and self.kind != "sane":
            problems.append(Problem(("positions",), "only sane has a choice of positions", "learned", self.positions))
        if self.mlp_width is not None and feedforward:
            problems.append(Problem(("mlp_width",), "feedforward has none", "nothing", str(self.mlp_width)))
        if self.statistics and self.kind != "sane":
            problems.append(Problem(("statistics",), "only sane shows statistics of tokens", "kind sane", self.kind))
        if self.dropout > 0 and feedforward:
            problems.append(Problem(("dropout",), "feedforward has none", "0", f"{self.dropout:g}"))
        raise_problems(problems)
        return self
