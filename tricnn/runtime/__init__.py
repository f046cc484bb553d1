"""Executors, and the one way in: :func:`compile`."""

from .model import Model, compile

__all__ = ["Model", "compile"]
