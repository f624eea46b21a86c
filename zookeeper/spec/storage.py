"""How the rows of a zoo are stored: a section of the spec that changes no model and no identity."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, model_validator

from zookeeper.spec.document import Section
from zookeeper.spec.factors import known
from zookeeper.spec.problems import Problem, raise_problems

DTYPES: tuple[str, ...] = ("float32", "float16", "bfloat16", "float64")
COMPRESSIONS: dict[str, tuple[str, ...]] = {"parquet": ("none", "zstd"), "hdf5": ("none", "gzip")}


class StoreSection(Section):
    """Backend of the shards, stored type of a weight, and lossless compression.

    `float16` and `bfloat16` round what is stored, never what is trained or evaluated.
    """

    backend: Annotated[str, AfterValidator(known("backend", tuple(COMPRESSIONS)))] = "parquet"
    dtype: Annotated[str, AfterValidator(known("dtype", DTYPES))] = "float32"
    compression: Annotated[str, AfterValidator(known("compression", ("none", "zstd", "gzip")))] = "none"

    @model_validator(mode="after")
    def _check_compression(self) -> StoreSection:
        if self.compression not in COMPRESSIONS[self.backend]:
            expected = f"{' or '.join(COMPRESSIONS[self.backend])} for {self.backend}"
            also = ("backend",)
            what = "compression of another backend"
            raise_problems([Problem(("compression",), what, expected, self.compression, also=also)])
        return self
