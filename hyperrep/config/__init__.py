"""What to train: one small YAML document per hyper-representation, typed and validated."""

from hyperrep.config.document import TrainConfig, load_config, packaged_config
from hyperrep.config.loss import LossSection, QuerySection, ScaleSection
from hyperrep.config.model import PRESETS, ModelSection, TokenSection, WindowSection
from hyperrep.config.training import AugmentSection, BatchSection, StoppingSection, TrainingSection, steps_per_epoch

__all__ = [
    "PRESETS",
    "AugmentSection",
    "BatchSection",
    "LossSection",
    "ModelSection",
    "QuerySection",
    "ScaleSection",
    "StoppingSection",
    "TokenSection",
    "TrainConfig",
    "TrainingSection",
    "WindowSection",
    "load_config",
    "packaged_config",
    "steps_per_epoch",
]
