"""What one batch of rows costs: views, encoding, decoding and the parts of the loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch

from hyperrep.config import TrainConfig
from hyperrep.models.autoencoder import Place
from hyperrep.objectives.behaviour import (
    agreement,
    behaviour_loss,
    behaviour_part,
    cross_entropy_loss,
    distillation_loss,
    outputs_of,
)
from hyperrep.objectives.composite import SCALED_PARTS, LossParts, compose, part_weights, weigh
from hyperrep.objectives.contrast import contrast_loss, positive_contrast_loss
from hyperrep.objectives.structure import cycle_loss, structure_loss
from hyperrep.training.arithmetic import Pass, piece_sizes, training_passes
from hyperrep.training.data import FitData
from hyperrep.training.pieces import sum_over_pieces
from hyperrep.training.queries import draw_queries
from hyperrep.training.ranks import SINGLE, Ranks
from hyperrep.training.saved import HyperRepresentation
from hyperrep.training.streams import keyed_generator
from hyperrep.weights.tokens import TokenWindow
from hyperrep.weights.views import add_noise, add_relative_noise, draw_views, erase
from hyperrep.weights.windows import draw_window

__all__ = ["FitData", "Objective"]


@dataclass(frozen=True, eq=False)
class _Encoded:
    """Networks of a batch through the encoder.

    Their ``rows [n, P]``, all views of them ``[V, n, P]`` and the views' ``latents [V, n, ...]``; the window that was
    encoded, or None: whole networks.
    """

    rows: torch.Tensor
    views: torch.Tensor
    latents: torch.Tensor
    window: TokenWindow | None

    def part(self, models: slice, latents: torch.Tensor) -> _Encoded:
        """Some of the networks and as many of their views as there are latents ``[V, n, ...]`` of."""
        views = self.views[: len(latents), models]
        return replace(self, rows=self.rows[models], views=views, latents=latents)


@dataclass(frozen=True, eq=False)
class _Decoded:
    """Decoded views ``[V * n, P]``, of a window all but the window original, and the views as they were."""

    views: torch.Tensor
    rows: torch.Tensor
    cycle: torch.Tensor | None
    window: TokenWindow | None


@dataclass(frozen=True, eq=False)
class Objective:
    """The loss of a batch as a function of (rows, key): no state, no hidden randomness.

    Parameters
    ----------
    config, hyper, data
        What is trained on what.
    scales
        What each part of the loss is divided by, by name; 1 for names that are missing.
    ranks
        The processes that share every batch.
    """

    config: TrainConfig
    hyper: HyperRepresentation
    data: FitData
    scales: Mapping[str, float] = field(default_factory=dict)
    ranks: Ranks = SINGLE

    @cached_property
    def _structure_weight(self) -> torch.Tensor | None:
        if self.config.loss.normalise == "none":
            return None
        return self.hyper.scaling.std_columns.square().reciprocal().to(self.data.rows.device)

    @cached_property
    def _decodes(self) -> bool:
        """Whether the loss needs decoded networks at all; E_c does not."""
        return self.config.loss.gamma < 1 or self.config.loss.cycle > 0

    @cached_property
    def _training_passes(self) -> tuple[Pass, Pass]:
        return training_passes(self.hyper.model, self.config.training)

    def train_loss(self, rows: torch.Tensor, step: int) -> LossParts:
        """Parts of the loss of rows ``[N, P]`` at a step; only parts with positive weight are computed.

        With several processes structure, behaviour and cycle are this one's contribution to the mean over the batch,
        and the gradients of all add up to that of the whole; `values_of` adds up the parts.
        """
        loss, seed = self.config.loss, self.config.training.seed
        weights = part_weights(loss.gamma, loss.beta)
        queries = None
        if weights["behaviour"] > 0:
            assert self.data.queries is not None
            queries = draw_queries(loss, self.data.queries, self.data.query_images, seed=seed, step=step)
        window = self._draw_window("window", step)
        views = keyed_generator(seed, "views", step)
        encoded = self._encode(rows, views, window, augmented=True, ranks=self.ranks)
        parts, totals = {}, []
        of_contrast = weights.pop("contrast")
        if of_contrast > 0:
            parts["contrast"] = self._contrast(encoded.latents.flatten(0, 1), self.ranks, len(rows))
            totals.append(weigh(parts, {"contrast": of_contrast}, self.scales))
        if self._decodes:
            total, decoded = self._decoded_parts(encoded, weights | {"cycle": loss.cycle}, queries)
            share = self.ranks.share(len(rows))
            totals.append(total * share if share < 1 else total)
            parts |= {name: part * share if share < 1 else part for name, part in decoded.items()}
        named = {name: parts.get(name) for name in ("contrast", "structure", "behaviour", "cycle")}
        return LossParts(torch.stack(totals).sum(), **named)

    def _decoded_parts(
        self, encoded: _Encoded, weights: Mapping[str, float], queries: torch.Tensor | None
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Decode a piece of the batch at a time; return the weighted total with its gradient, and the parts."""
        latents = encoded.latents[: self.config.loss.decoded_views]
        _, size = piece_sizes(latents.device, self.config.training)

        def parts_of(models: slice, latents: torch.Tensor) -> dict[str, torch.Tensor]:
            piece = encoded.part(models, latents)
            decoded = self._decode(piece, self._training_passes)
            parts = {} if decoded.cycle is None else {"cycle": decoded.cycle}
            if weights["structure"] > 0:
                parts["structure"] = self._structure(decoded)
            if queries is not None:
                assert self.data.population is not None
                networks = self.hyper.as_networks(decoded.rows)
                parts["behaviour"] = behaviour_part(
                    self.data.population, networks, piece.rows, queries, self._behaviour
                )
            return parts

        return sum_over_pieces(
            latents,
            parts_of,
            lambda parts: weigh(parts, weights, self.scales),
            list(self.hyper.model.parameters()),
            max(1, size // len(latents)),
        )

    def values_of(self, parts: LossParts) -> dict[str, float]:
        """Plain numbers by name, of the whole batch, without the parts that were not computed."""
        values = parts.values()
        names = [name for name in ("structure", "behaviour", "cycle") if name in values]
        if self.ranks.size == 1 or not names:
            return values
        sums = torch.tensor([values[name] for name in names], dtype=torch.float64, device=self.data.rows.device)
        self.ranks.sum(sums)
        whole = dict(zip(names, sums, strict=True))
        return self._compose(whole if parts.contrast is None else {"contrast": parts.contrast, **whole}).values()

    @torch.no_grad()
    def measure_scales(self, rows: torch.Tensor) -> dict[str, float]:
        """The parts of the loss of the first batch; a part that is 0 there keeps scale 1."""
        values = self.values_of(self.train_loss(rows, 0))
        return {name: values[name] for name in SCALED_PARTS if values.get(name, 0.0) > 0}

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """All parts of the loss and the agreement on the validation rows; empty without such rows.

        A model that only contrasts (E_c) has no decoder to validate. Of a model of windows a random window of each
        batch is decoded and the rest of the network kept: agreement is then that of networks with one window decoded.

        Views come from a fixed key, so two calls on the same weights give the same numbers. Behaviour
        and agreement (share of validation images with the same class) are measured whatever their
        weight in training, if population and images are there.
        """
        data, loss = self.data, self.config.loss
        if data.val_rows is None:
            return {}
        sums: dict[str, float] = {}
        size = self.config.training.batch_size
        for number, rows in enumerate(torch.split(data.val_rows, size)):
            generator = keyed_generator(self.config.training.seed, "validation", number)
            window = self._draw_window("validation window", number)
            encoded = self._encode(rows, generator, window, augmented=False)
            model, decoded = self.hyper.model, None
            parts: dict[str, torch.Tensor] = {}
            if self._decodes:
                latents = encoded.latents[: loss.decoded_views]
                decoded = self._decode(encoded.part(slice(None), latents), (model.encode, model.decode))
                parts["structure"] = self._structure(decoded)
            if loss.gamma > 0:
                parts["contrast"] = self._contrast(encoded.latents.flatten(0, 1))
            if decoded is not None and decoded.cycle is not None:
                parts["cycle"] = decoded.cycle
            agreed = None
            if data.population is not None and data.val_queries is not None and decoded is not None:
                logits = outputs_of(data.population, rows, data.val_queries)
                networks = self.hyper.as_networks(decoded.rows)
                decoded_logits = outputs_of(data.population, networks, data.val_queries)
                parts["behaviour"] = self._behaviour(decoded_logits, logits)
                agreed = agreement(decoded_logits, logits.repeat(len(decoded_logits) // len(logits), 1, 1)).mean()
            composed = self._compose(parts) if self._complete(parts) else None
            values = {name: float(part) for name, part in parts.items()}
            if composed is not None:
                values["total"] = float(composed.total)
            if agreed is not None:
                values["agreement"] = float(agreed)
            for name, value in values.items():
                sums[name] = sums.get(name, 0.0) + value * len(rows)
        return {name: value / len(data.val_rows) for name, value in sums.items()}

    def _complete(self, parts: Mapping[str, torch.Tensor]) -> bool:
        weights = part_weights(self.config.loss.gamma, self.config.loss.beta)
        return all(name in parts for name, weight in weights.items() if weight > 0)

    def _compose(self, parts: Mapping[str, torch.Tensor]) -> LossParts:
        loss = self.config.loss
        return compose(gamma=loss.gamma, beta=loss.beta, cycle_weight=loss.cycle, scales=self.scales, **parts)

    def _contrast(self, latents: torch.Tensor, ranks: Ranks = SINGLE, num: int = 0) -> torch.Tensor:
        """Contrast of the latents of both views, or of those of all processes with ``num`` models together."""
        projected = ranks.gather(self.hyper.model.project(latents), num)
        function = contrast_loss if self.config.loss.contrast == "ntxent" else positive_contrast_loss
        return function(projected, temperature=self.config.loss.temperature)

    def _structure(self, decoded: _Decoded) -> torch.Tensor:
        if decoded.window is None:
            return structure_loss(decoded.rows, decoded.views, self._structure_weight)
        columns = decoded.window.real_columns
        weight = None if self._structure_weight is None else self._structure_weight[columns]
        return structure_loss(decoded.rows[:, columns], decoded.views[:, columns], weight)

    def _behaviour(self, decoded_logits: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        loss = self.config.loss
        if loss.behaviour == "cross_entropy":
            return cross_entropy_loss(decoded_logits, logits)
        if loss.behaviour == "distillation":
            return distillation_loss(decoded_logits, logits, temperature=loss.distillation_temperature)
        return behaviour_loss(decoded_logits, logits, outputs=loss.outputs)

    def _draw_window(self, purpose: str, number: int) -> TokenWindow | None:
        """One window for the whole batch: the contrastive part must tell models apart, not places in a model."""
        sizes = self.config.windows
        if sizes is None:
            return None
        generator = keyed_generator(self.config.training.seed, purpose, number)
        first, length = draw_window(self.hyper.tokeniser.num_tokens, sizes.size, generator)
        return self.hyper.tokeniser.window(first, length).to(self.data.rows.device)

    def _encode(
        self,
        rows: torch.Tensor,
        generator: torch.Generator,
        window: TokenWindow | None,
        *,
        augmented: bool,
        ranks: Ranks = SINGLE,
    ) -> _Encoded:
        """Encode two views if the contrastive part needs them, else one.

        Views are drawn for all rows, whoever encodes them; of several processes each goes on with its own models.
        """
        augment, hyper = self.config.augment, self.hyper
        num_views = 2 if self.config.loss.gamma > 0 else 1
        permutations = self.data.permutations if augment.permute else None
        views = draw_views(rows, permutations, generator, num_views=num_views)
        tokens = hyper.tokens_of(views, window)
        if augmented:
            mask = hyper.tokeniser.mask if window is None else window.mask
            tokens = add_relative_noise(tokens, generator, sigma=augment.relative_noise)
            tokens = add_noise(tokens, mask, generator, sigma=augment.noise)
            tokens = erase(tokens, generator, probability=augment.erase)
        own = ranks.own(len(rows))
        views, tokens = (part.view(num_views, len(rows), *part.shape[1:])[:, own] for part in (views, tokens))
        encode = self._training_passes[0] if augmented else hyper.model.encode
        latents = encode(tokens.flatten(0, 1), _place(window))
        return _Encoded(rows[own], views, torch.unflatten(latents, 0, (num_views, -1)), window)

    def _decode(self, encoded: _Encoded, passes: tuple[Pass, Pass]) -> _Decoded:
        """Decode the latents, and encode what comes out again if cycles count."""
        encode, decode = passes
        hyper, window, views = self.hyper, encoded.window, encoded.views.flatten(0, 1)
        latents = encoded.latents.flatten(0, 1)
        tokens = decode(latents, _place(window))
        rows = hyper.rows_of(tokens) if window is None else hyper.rows_with(tokens, window, views)
        cycle = None
        if self.config.loss.cycle > 0:
            cycle = cycle_loss(latents, encode(tokens, _place(window)))
        return _Decoded(views, rows, cycle, window)


def _place(window: TokenWindow | None) -> Place | None:
    return None if window is None else Place(window.mask, window.positions)
