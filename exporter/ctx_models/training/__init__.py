"""Fine-tuning: the whole network, and with the sandwich rule its parts beside it."""

from ctx_models.training.config import TrainingConfig
from ctx_models.training.events import EpochDone, Event, OnEvent, Resumed, StepDone
from ctx_models.training.loggers import LoggerName, log_to
from ctx_models.training.loop import train
from ctx_models.training.sandwich import between

__all__ = [
    "EpochDone",
    "Event",
    "LoggerName",
    "OnEvent",
    "Resumed",
    "StepDone",
    "TrainingConfig",
    "between",
    "log_to",
    "train",
]
