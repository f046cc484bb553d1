"""Executors, and the one way in: :func:`compile`."""

from ..run.loss_targets import Mixed
from ..run.model import Model, compile

__all__ = ["Mixed", "Model", "compile"]
