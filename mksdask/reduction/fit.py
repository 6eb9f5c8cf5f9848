"""Operations that fit a model which reduces statistics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mksdask.arrays import Array, is_lazy, unwrap
from mksdask.compute.blocks import in_chunks_of
from mksdask.compute.operation import Operation
from mksdask.compute.plans import Limit, Plan
from mksdask.compute.watching import Watch
from mksdask.reduction.ensemble import Reducible
from mksdask.reduction.projection import label_scores


@dataclass(frozen=True)
class Fit(Operation[Any]):
    """The checked arguments of `fit`."""

    model: Any
    statistics: Reducible
    y: Array | None
    watch: Watch
    resume: bool
    name: str = "fit"

    def plan(self, limit: Limit) -> Plan:
        """Plan the statistics and the reducer. A linkage takes little, because it is fitted to scores."""
        name = f"{type(self.model).__name__}.{self.name}"
        return self.statistics.plan(name, self.model._reducer(self.statistics), limit)

    def run(self) -> Any:
        """Fit the model."""
        self.model._fit(self.statistics, self.y, watch=self.watch, resume=self.resume)
        return self.model


@dataclass(frozen=True)
class FitTransform(Fit):
    """The checked arguments of `fit_transform`."""

    X: Any = None

    def run(self) -> Any:
        """Fit the model, and return the scores of the samples."""
        scores = super().run().reduced_fit_data
        return label_scores(in_chunks_of(unwrap(self.X)[0], scores) if is_lazy(self.X) else scores, self.X)
