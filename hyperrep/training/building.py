"""From a configuration and a layout to tokens and an autoencoder with initial weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from hyperrep.config import TrainConfig
from hyperrep.models.attention import AttentionAutoencoder
from hyperrep.models.autoencoder import Autoencoder
from hyperrep.models.feedforward import FeedForwardAutoencoder
from hyperrep.models.sane import Sane
from hyperrep.models.transformer import Block
from hyperrep.weights.encodings import build_tokeniser, layer_widths
from hyperrep.weights.tokens import Tokeniser
from zookeeper.nets.layout import WeightLayout


def build_tokens(config: TrainConfig, layout: WeightLayout) -> Tokeniser:
    """Cut rows of the layout as the configuration says."""
    return build_tokeniser(layout, config.tokens.encoding, config.tokens.width)


def build_autoencoder(
    config: TrainConfig, tokeniser: Tokeniser, generator: torch.Generator, others: Sequence[Tokeniser] = ()
) -> Autoencoder:
    """Build the configured autoencoder; every initial weight is drawn from the generator.

    It drops nothing until it is put into training mode. A model of windows is built for the first window of the
    network; its learned tables, if it has any, are as long as the network, or as the longest of ``others`` that it is
    to read too (kind sane).
    """
    model = _build(config, tokeniser, generator, others)
    for module in model.modules():
        if isinstance(module, Block):
            module.dropout = config.model.dropout
    return model


def _build(
    config: TrainConfig, tokeniser: Tokeniser, generator: torch.Generator, others: Sequence[Tokeniser]
) -> Autoencoder:
    sizes = config.model
    by_layer = layer_widths(tokeniser) if config.tokens.encoding == "neuron" else None
    if sizes.kind == "feedforward":
        return FeedForwardAutoencoder(
            tokeniser.mask,
            latent=sizes.latent,
            num_layers=sizes.num_layers,
            bounded=sizes.bounded,
            projection=sizes.projection,
            generator=generator,
        )
    assert sizes.d_model is not None
    assert sizes.num_heads is not None
    if sizes.kind == "attention":
        return AttentionAutoencoder(
            tokeniser.mask,
            tokeniser.positions,
            latent=sizes.latent,
            d_model=sizes.d_model,
            num_heads=sizes.num_heads,
            num_layers=sizes.num_layers,
            mlp_width=sizes.mlp_width,
            compression_token=sizes.compression_token,
            bounded=sizes.bounded,
            layer_widths=by_layer,
            projection=sizes.projection,
            generator=generator,
        )
    num = tokeniser.num_tokens if config.windows is None else min(config.windows.size, tokeniser.num_tokens)
    window = tokeniser.window(0, num)
    cuts = (tokeniser, *others)
    tables = [(cut.num_tokens, len(cut.segments), max(one.channels for one in cut.segments)) for cut in cuts]
    return Sane(
        window.mask,
        window.positions,
        latent=sizes.latent,
        d_model=sizes.d_model,
        num_heads=sizes.num_heads,
        num_layers=sizes.num_layers,
        mlp_width=sizes.mlp_width,
        bounded=sizes.bounded,
        position_kind=sizes.positions,
        sizes=tuple(max(sizes) for sizes in zip(*tables, strict=True)),
        layer_widths=by_layer,
        projection=sizes.projection,
        biases=tokeniser.biases if sizes.statistics else None,
        generator=generator,
    )
