"""The typed dataset API: a zoo as one frame beside one matrix.

``view`` is the zoo itself, ``sources`` where its rows come from, ``opening`` opens one, ``collecting`` makes one of
given rows, ``concatenation`` one of several; ``splits`` divides, ``leakage`` says what two sides share, ``networks``
builds one checkpoint's network.
"""

from zookeeper.zoo.collecting import write_rows
from zookeeper.zoo.concatenation import concatenate
from zookeeper.zoo.leakage import Leak, Leakage, SharedPair, find_leaks
from zookeeper.zoo.opening import open
from zookeeper.zoo.splits import ZooSplits
from zookeeper.zoo.view import RowBatch, Zoo

__all__ = [
    "Leak",
    "Leakage",
    "RowBatch",
    "SharedPair",
    "Zoo",
    "ZooSplits",
    "concatenate",
    "find_leaks",
    "open",
    "write_rows",
]
