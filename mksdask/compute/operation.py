"""Public calls that can be planned and run.

A public call that works out of core checks its arguments and makes an `Operation` of them. The call runs the operation,
and `plan` plans it.
"""

from __future__ import annotations

import functools
import inspect
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from types import MethodType
from typing import Any, Generic, ParamSpec, TypeVar

import dask

from mksdask.compute.plans import MEMORY_LIMIT_KEY, MIB, DoesNotFitError, Limit, Plan

P = ParamSpec("P")
R = TypeVar("R")

# A public call keeps the function that prepares its operation in this attribute.
PREPARE = "_mksdask_prepare"


class Operation(ABC, Generic[R]):
    """The checked arguments of a public call, which can be planned and run."""

    @abstractmethod
    def plan(self, limit: Limit) -> Plan:
        """Plan what the run takes within a limit of memory.

        Raises
        ------
        DoesNotFitError
            If nothing fits. The message names the smallest limit that would do.
        """

    @abstractmethod
    def run(self) -> R:
        """Run the call, and return its result."""


def operation(prepare: Callable[P, Operation[R]]) -> Callable[P, R]:
    """Turn a function that checks its arguments and returns an `Operation` into a public call.

    The call runs the operation. `plan` gets the operation from the same function and plans it instead, so that both
    share one signature and one check of the arguments.
    """

    @functools.wraps(prepare)
    def call(*args: P.args, **options: P.kwargs) -> R:
        try:
            return prepare(*args, **options).run()
        except DoesNotFitError as refusal:
            raise _settled(refusal, lambda: prepare(*args, **options).plan(Limit.of())) from None

    # The signature shows what the call returns.
    signature = inspect.signature(prepare)
    returned = str(signature.return_annotation).removeprefix("Operation[").removesuffix("]")
    call.__signature__ = signature.replace(return_annotation=returned)  # type: ignore[attr-defined]
    setattr(call, PREPARE, prepare)
    return call


def plan(operation: Callable[..., Any], *args: Any, memory_limit: int | str | None = None, **options: Any) -> Plan:
    """Say what a call takes, without running it.

    Parameters
    ----------
    operation : callable
        The function or method to plan: ``correlate``, ``correlate3``, ``correlate_volume``, ``correlate_volume3``,
        ``correlate_clusters``, ``correlate_volume_clusters``, ``correlate_surfaces``, ``correlate_volume_surfaces``,
        ``label_clusters``, ``cluster_statistics``, ``distance_map``, ``pore_sizes``, ``local_thickness``,
        ``texture_coefficients``, ``volume_texture_coefficients``, ``misorientation_density``,
        ``volume_misorientation_density``, ``PCA(5).fit``,
        ``KernelRegressor().fit``, ``MKSStructureAnalysis(...).fit`` or ``.share``, ``MKSHomogenizationModel(...).fit``
        or ``.share``, ``MKSLocalizationModel(...).fit`` or ``.predict``, ``solve_fields``, ``mean_stress``,
        ``effective_stiffness``, ``effective_expansion``, ``solve_conduction`` or ``effective_conductivity``.
    *args, **options
        The arguments of the call.
    memory_limit : int or str, optional
        Bytes of a worker, such as "4GiB". Default: ``mksdask.memory-limit`` of dask's configuration, or else the memory
        of the workers of the cluster, or of this machine.

    Returns
    -------
    Plan
        The cheapest plan that fits. It holds the sizes of chunks and tiles, and for each kind of task the number of
        tasks, their peak memory, bytes and operations. The call plans itself in the same way.

    Raises
    ------
    TypeError
        If `operation` is not one of those above.
    ValueError
        If nothing fits into `memory_limit`. The message names the smallest limit that would do. Also where the call
        itself raises it.

    Examples
    --------
    >>> import dask.array as da
    >>> from mksdask import PrimitiveBasis
    >>> from mksdask.stats import correlate
    >>> X = da.zeros((64, 32, 32, 32), chunks=(16, 32, 32, 32), dtype="uint8")
    >>> found = plan(correlate, X, PrimitiveBasis(2), periodic_axes=[0, 1, 2], memory_limit="4GiB")
    >>> found.stages[0].n_tasks, found.peak_bytes < 2**28
    (4, True)
    """
    prepare = getattr(operation, PREPARE, None)
    if prepare is None:
        name = getattr(operation, "__qualname__", f"an object of {type(operation).__name__}")
        msg = (
            f"operation must be one of those that the docstring of plan names, got {name}; see help(mksdask.plan). "
            "Pass the function and then its arguments, such as plan(correlate, X, basis)"
        )
        raise TypeError(msg)
    owner = (operation.__self__,) if isinstance(operation, MethodType) else ()

    def planned() -> Plan:
        found: Plan = prepare(*owner, *args, **options).plan(Limit.of())
        return found

    with dask.config.set({} if memory_limit is None else {MEMORY_LIMIT_KEY: memory_limit}):
        try:
            return planned()
        except DoesNotFitError as refusal:
            raise _settled(refusal, planned) from None


def _settled(refusal: DoesNotFitError, planned: Callable[[], Plan]) -> DoesNotFitError:
    """Name the smallest limit with which a call can be planned.

    A refusal knows what one step needs. With the limit that it names, another step may need more, and another layout
    may need less.
    """

    def refused(n: int) -> DoesNotFitError | None:
        """Plan with n MiB."""
        with warnings.catch_warnings(), dask.config.set({MEMORY_LIMIT_KEY: n * MIB}):
            warnings.simplefilter("ignore")
            try:
                planned()
            except DoesNotFitError as error:
                return error
            except (TypeError, ValueError):
                # There is no plan of this call.
                return None
        return None

    low, high = (n // MIB for n in (refusal.worker_bytes, refusal.least_bytes))
    if low >= high or refused(low) is None:
        # What was refused is not what a plan counts.
        return refusal
    while error := refused(high):
        if not error.least_bytes:
            return refusal
        low, high = high, max(error.least_bytes // MIB, high + high // 8 + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if refused(middle) else (low, middle)
    return refusal.naming(high * MIB)
