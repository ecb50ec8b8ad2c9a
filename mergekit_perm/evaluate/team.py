"""Several engines, one for each device, that measure the points of one family together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from mergekit_perm.evaluate.engine import Engine
from mergekit_perm.evaluate.metrics import Metrics
from mergekit_perm.evaluate.points import Weights


class Team:
    """Measures as an `Engine` does, the next points on the device that is free.

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
        left = list(points)
        working: dict[Future[list[tuple[Weights, dict[str, Metrics]]]], Engine] = {}
        # How CUDA multiplies is one setting for all threads: none may put it back early.
        with self.engines[0].multiplying(), ThreadPoolExecutor(len(self.engines)) as pool:

            def go_on(engine: Engine) -> None:
                if left:
                    way, group = engine.take(left, len(self.engines))
                    working[pool.submit(engine.some, way, group)] = engine

            failed: BaseException | None = None
            for engine in self.engines:
                go_on(engine)
            while working:
                done, _ = wait(working, return_when=FIRST_COMPLETED)
                for one in done:
                    engine, error = working.pop(one), one.exception()
                    failed = failed or error
                    if not failed:
                        go_on(engine)
                    if not error:
                        yield from one.result()
            if failed:  # what other devices were at is there by now
                raise failed
