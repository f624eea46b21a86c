"""Networks of a zoo that a hyper-representation was not trained on: decoded from their embeddings, and sampled.

Source: Schürholt et al., "Hyper-Representations as Generative Models" (2022), section 4.2.3, Table 3.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from hyperrep.tasks.behaviour import Examiner
from hyperrep.tasks.ensemble import Members, ensemble_accuracies
from hyperrep.tasks.generate import Autoencoder
from hyperrep.tasks.reconstruct import STAND_IN
from hyperrep.tasks.split import Role, ZooSplit, select_on_validation
from zookeeper.errors import InputError

ORIGINALS, CHANCE = "originals", "most frequent class"


def decode_other_zoo(
    autoencoders: Mapping[str, Autoencoder],
    splits: Mapping[Role, ZooSplit],
    examiner: Examiner,
    *,
    samples: Mapping[str, np.ndarray] | None = None,
    ensemble_size: int = 15,
) -> pd.DataFrame:
    """Encode and decode the test models of another zoo, and measure them on that zoo's images.

    Beside them stand the models themselves, one good train model in the place of all, and the most frequent class.
    An untrained autoencoder belongs among ``autoencoders``.

    Parameters
    ----------
    autoencoders
        Name -> hyper-representation; none was trained on this zoo.
    splits
        Train and test models of the other zoo.
    examiner
        Of the other zoo.
    samples
        Name -> networks ``[n, P]`` sampled from the embeddings of the other zoo's *train* models.
    ensemble_size
        Most networks of an ensemble, chosen on validation images.

    Returns
    -------
    One row per kind of networks: ``networks``, ``num``, ``test_acc`` (mean), ``test_acc_std``,
    ``selected_test_acc`` (of the network chosen on validation images), ``ensemble_test_acc`` and ``ensemble_size``;
    for decoded ones ``agreement`` with the original and ``l2`` of the weights (means), else NaN.

    Raises
    ------
    InputError
        If sides are exchanged, or rows do not fit an autoencoder or the architecture.
    """
    for role in ("train", "test"):
        if splits[role].role != role:
            raise InputError(f"other zoo: expected models of the {role} split.")
    test, train = splits["test"], splits["train"]
    classes = examiner.classes(test.rows, "test")
    chosen = train.rows[select_on_validation(train.frame)]
    kinds: dict[str, np.ndarray] = {ORIGINALS: test.rows}
    kinds |= {name: _decoded(autoencoder, test.rows) for name, autoencoder in autoencoders.items()}
    kinds[STAND_IN] = np.repeat(chosen[None], len(test), axis=0)
    paired = set(kinds)
    kinds |= samples or {}
    records = []
    for name, rows in kinds.items():
        record = _measure(rows, examiner, ensemble_size)
        if name in paired:
            record["agreement"] = float((examiner.classes(rows, "test") == classes).mean())
            record["l2"] = float(np.linalg.norm(rows.astype(np.float64) - test.rows, axis=1).mean())
        records.append({"networks": name, **record})
    share = float(np.bincount(examiner.labels("test")).max() / len(examiner.labels("test")))
    records.append({"networks": CHANCE, "num": 1, "test_acc": share, "test_acc_std": 0.0, "selected_test_acc": share})
    return pd.DataFrame.from_records(records)


def _decoded(autoencoder: Autoencoder, rows: np.ndarray) -> np.ndarray:
    return np.asarray(autoencoder.decode(np.asarray(autoencoder.encode(rows))), dtype=np.float32)


def _measure(rows: np.ndarray, examiner: Examiner, ensemble_size: int) -> dict[str, float]:
    val_acc, val_loss = examiner.scores(rows, "val")
    accuracy, _ = examiner.scores(rows, "test")
    members = Members.choose(rows, examiner, ensemble_size)
    return {
        "num": len(rows),
        "test_acc": float(accuracy.mean()),
        "test_acc_std": float(accuracy.std()),
        "selected_test_acc": float(
            accuracy[select_on_validation(pd.DataFrame({"val_acc": val_acc, "val_loss": val_loss}))]
        ),
        "ensemble_test_acc": float(ensemble_accuracies(members, examiner)[0, -1]),
        "ensemble_size": len(members.rows),
    }
