"""What one batch of rows costs: views, encoding, decoding and the parts of the loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch

from hyperrep.config import TrainConfig
from hyperrep.objectives.behaviour import Network, agreement, behaviour_loss, outputs_of
from hyperrep.objectives.composite import LossParts, compose, part_weights
from hyperrep.objectives.contrast import contrast_loss
from hyperrep.objectives.structure import structure_loss
from hyperrep.training.saved import HyperRepresentation
from hyperrep.training.streams import keyed_generator
from hyperrep.weights.views import Permutations, add_noise, draw_views, erase
from zookeeper.errors import InputError
from zookeeper.nets.layout import WeightLayout


@dataclass(frozen=True, eq=False)
class FitData:
    """Everything a training reads, resident in memory.

    Parameters
    ----------
    rows
        Train split, float32 ``[N, P]``, finite.
    layout
        Columns of the rows.
    population
        Stacked forward pass of the rows' architecture; needed for the behavioural part.
    permutations
        Source of permutations; needed for permuted views.
    queries
        Images ``[n, C, H, W]`` the behavioural part draws from, normalised as the zoo's training images.
    val_rows, val_queries
        For validation; None leaves it (or its behavioural part) out.
    provenance
        Plain values about the zoo, saved with the model.
    """

    rows: torch.Tensor
    layout: WeightLayout
    population: Network | None = None
    permutations: Permutations | None = None
    queries: torch.Tensor | None = None
    val_rows: torch.Tensor | None = None
    val_queries: torch.Tensor | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def to(self, device: str) -> FitData:
        """Move every tensor to a device."""

        def move(value: torch.Tensor | None) -> torch.Tensor | None:
            return None if value is None else value.to(device)

        return replace(
            self,
            rows=self.rows.to(device),
            queries=move(self.queries),
            val_rows=move(self.val_rows),
            val_queries=move(self.val_queries),
        )

    def check(self, config: TrainConfig) -> None:
        """Raise an InputError if the configuration asks for what is not here, or rows are not finite."""
        for name, rows in (("rows", self.rows), ("val_rows", self.val_rows)):
            if rows is None:
                continue
            if rows.ndim != 2 or rows.shape[0] < 1 or rows.shape[1] != self.layout.num_weights:
                raise InputError(
                    f"fit: {name} has shape {tuple(rows.shape)}; expected [N >= 1, {self.layout.num_weights}]."
                )
            bad = (~torch.isfinite(rows).all(dim=1)).nonzero().flatten().tolist()
            if bad:
                raise InputError(
                    f"fit: {len(bad)} of {len(rows)} {name} are not finite (first: {bad[0]}). "
                    "Leave diverged models out (status == 'ok')."
                )
        if part_weights(config.loss.gamma, config.loss.beta)["behaviour"] > 0:
            if self.population is None or self.queries is None:
                raise InputError(
                    "fit: loss.beta below 1 needs a population and query images. Pass both or set beta to 1."
                )
            if config.loss.queries > len(self.queries):
                raise InputError(
                    f"fit: loss.queries: expected at most {len(self.queries)} (the number of query images), "
                    f"got {config.loss.queries}."
                )
        if config.augment.permute and self.permutations is None:
            raise InputError("fit: augment.permute needs a source of permutations. Pass one or set it to false.")


@dataclass(frozen=True, eq=False)
class Objective:
    """The loss of a batch as a function of (rows, key): no state, no hidden randomness."""

    config: TrainConfig
    hyper: HyperRepresentation
    data: FitData

    @cached_property
    def _structure_weight(self) -> torch.Tensor | None:
        if self.config.loss.normalise == "none":
            return None
        return self.hyper.scaling.std_columns.square().reciprocal().to(self.data.rows.device)

    def train_loss(self, rows: torch.Tensor, step: int) -> LossParts:
        """Parts of the loss of rows ``[N, P]`` at a step; only parts with positive weight are computed."""
        loss, seed = self.config.loss, self.config.training.seed
        weights = part_weights(loss.gamma, loss.beta)
        queries = None
        if weights["behaviour"] > 0:
            assert self.data.queries is not None
            drawn = torch.randperm(len(self.data.queries), generator=keyed_generator(seed, "queries", step))
            queries = self.data.queries[drawn[: loss.queries].to(self.data.queries.device)]
        views, latents, decoded = self._forward(rows, keyed_generator(seed, "views", step), augmented=True)
        contrast = structure = behaviour = None
        if weights["contrast"] > 0:
            contrast = contrast_loss(self.hyper.model.project(latents), temperature=loss.temperature)
        if weights["structure"] > 0:
            structure = structure_loss(decoded, views, self._structure_weight)
        if queries is not None:
            assert self.data.population is not None
            with torch.no_grad():
                logits = outputs_of(self.data.population, rows, queries)
            behaviour = behaviour_loss(outputs_of(self.data.population, decoded, queries), logits, outputs=loss.outputs)
        return compose(gamma=loss.gamma, beta=loss.beta, contrast=contrast, structure=structure, behaviour=behaviour)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """All parts of the loss and the agreement on the validation rows; empty without such rows.

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
            views, latents, decoded = self._forward(rows, generator, augmented=False)
            parts: dict[str, torch.Tensor] = {"structure": structure_loss(decoded, views, self._structure_weight)}
            if loss.gamma > 0:
                projected = self.hyper.model.project(latents)
                parts["contrast"] = contrast_loss(projected, temperature=loss.temperature)
            agreed = None
            if data.population is not None and data.val_queries is not None:
                logits = outputs_of(data.population, rows, data.val_queries)
                decoded_logits = outputs_of(data.population, decoded, data.val_queries)
                parts["behaviour"] = behaviour_loss(decoded_logits, logits, outputs=loss.outputs)
                agreed = agreement(decoded_logits, logits.repeat(len(decoded_logits) // len(logits), 1, 1)).mean()
            composed = compose(gamma=loss.gamma, beta=loss.beta, **parts) if self._complete(parts) else None
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

    def _forward(
        self, rows: torch.Tensor, generator: torch.Generator, *, augmented: bool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Decoded views as they were, latents of all views, decoded rows.

        There are two views if the contrastive part needs them, else one.
        """
        augment = self.config.augment
        num_views = 2 if self.config.loss.gamma > 0 else 1
        permutations = self.data.permutations if augment.permute else None
        views = draw_views(rows, permutations, generator, num_views=num_views)
        tokens = self.hyper.tokens_of(views)
        if augmented:
            tokens = add_noise(tokens, self.hyper.tokeniser.mask, generator, sigma=augment.noise)
            tokens = erase(tokens, generator, probability=augment.erase)
        latents = self.hyper.model.encode(tokens)
        num_decoded = len(rows) * min(num_views, self.config.loss.decoded_views)
        decoded = self.hyper.rows_of(self.hyper.model.decode(latents[:num_decoded]))
        return views[:num_decoded], latents, decoded
