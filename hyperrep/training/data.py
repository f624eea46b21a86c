"""Everything a training reads, as one value in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from hyperrep.config import TrainConfig
from hyperrep.objectives.behaviour import Network
from hyperrep.objectives.composite import part_weights
from hyperrep.training.queries import check_queries
from hyperrep.weights.alignment import Aligner
from hyperrep.weights.views import Permutations
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
    query_images
        Other sources of queries by name, ``[n, C, H, W]`` each, brought to the form of ``queries``.
    aligner
        What aligned the rows (`aligned`), if anything did; saved with the model.
    groups
        Group of each row, int64 ``[N]``, from which ``training.batches`` fills batches (`hyperrep.training.batches`).
    targets, val_targets
        What the probe of validation reads off the latents, float64 ``[N]`` in the order of the rows: the models' test
        accuracy. Not trained on; None leaves the probe out.
    """

    rows: torch.Tensor
    layout: WeightLayout
    population: Network | None = None
    permutations: Permutations | None = None
    queries: torch.Tensor | None = None
    val_rows: torch.Tensor | None = None
    val_queries: torch.Tensor | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    query_images: Mapping[str, torch.Tensor] = field(default_factory=dict)
    targets: torch.Tensor | None = None
    val_targets: torch.Tensor | None = None
    groups: torch.Tensor | None = None
    aligner: Aligner | None = None

    def aligned(self, aligner: Aligner) -> FitData:
        """Align train and validation rows; the aligner stays with the data and with what is trained on them."""
        val_rows = None if self.val_rows is None else aligner.align(self.val_rows)
        return replace(self, rows=aligner.align(self.rows), val_rows=val_rows, aligner=aligner)

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
            query_images={name: images.to(device) for name, images in self.query_images.items()},
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
            finite = torch.cat([torch.isfinite(part).all(dim=1) for part in torch.split(rows, 1024)])
            bad = (~finite).nonzero().flatten().tolist()
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
            check_queries(config.loss, self.queries, self.query_images)
        if (config.align is None) != (self.aligner is None):
            expected = "rows aligned by FitData.aligned" if config.align else "rows that were not, or a section align"
            raise InputError(f"fit: alignment of data and configuration differ; expected {expected}.")
        if config.training.batches is not None and self.groups is None:
            raise InputError("fit: training.batches needs the groups of the rows. Pass them or leave the section out.")
        if config.augment.permute and self.permutations is None:
            raise InputError("fit: augment.permute needs a source of permutations. Pass one or set it to false.")
