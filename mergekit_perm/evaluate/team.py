"""Several engines, one for each device, that measure the points of one family together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from queue import SimpleQueue

from mergekit_perm.evaluate.engine import Engine
from mergekit_perm.evaluate.metrics import Metrics
from mergekit_perm.evaluate.points import Weights


class Team:
    """Measures as an `Engine` does, each point on the device that is free.

    Attributes:
        engines: of the same networks and splits, each on a device of its own.
    """

    def __init__(self, engines: Sequence[Engine]) -> None:
        self.engines = tuple(engines)

    def measure(self, weights: Weights) -> dict[str, Metrics]:
        """Return the metrics of one mix, measured on the first device."""
        return self.engines[0].measure(weights)

    def beside(self, weights: Weights) -> dict[str, Metrics] | None:
        """Return what `Engine.beside` does, of the device that has measured the mix."""
        found = (engine.beside(weights) for engine in self.engines)
        return next((metrics for metrics in found if metrics is not None), None)

    def each(self, points: Sequence[Weights]) -> Iterator[tuple[Weights, dict[str, Metrics]]]:
        """Yield every point with its metrics, as devices are done with them."""
        free: SimpleQueue[Engine] = SimpleQueue()
        for engine in self.engines:
            free.put(engine)

        def measured(point: Weights) -> tuple[Weights, dict[str, Metrics]]:
            engine = free.get()
            try:
                return point, engine.measure(point)
            finally:
                free.put(engine)

        first = self.engines[0]
        # How CUDA multiplies is one setting for all threads: none may put it back early.
        with first.multiplying(), ThreadPoolExecutor(len(self.engines)) as pool:
            waiting = [pool.submit(measured, point) for point in points]
            try:
                for done in as_completed(waiting):
                    yield done.result()
            finally:
                for one in waiting:
                    one.cancel()
