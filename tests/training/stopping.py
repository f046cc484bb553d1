"""A callback by which a test ends a run in its middle."""


class Failing(Exception):
    """What a run ends with that :class:`StopAfter` stops."""


class StopAfter:
    """A callback that ends the run after so many steps, and so a crash: what it raises nobody expects."""

    def __init__(self, steps):
        self.steps = steps

    def on_step(self, step, loss):
        if step == self.steps:
            raise Failing
