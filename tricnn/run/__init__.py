"""Executors, and the one way in: :func:`compile`."""

from ..run.model import Model, compile

__all__ = ["Model", "compile"]
