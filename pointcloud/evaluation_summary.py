"""From records to figures: means over scenes and over pairs with intervals, verdicts, and what turning scans costs."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from .evaluation_measures import Bounds, Measure, Unit, measures_of
from .evaluation_records import Record, ScanPair
from .metrics import expected_calibration_error, mean_over_scenes

OVERLAP_EDGES = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
RESAMPLES = 1000
_LEVEL = 0.95
# Of the standard normal distribution, for intervals of 95 %.
_WILSON = 1.959964


class Interval(NamedTuple):
    """Of 95 %."""

    low: float
    high: float


@dataclass(frozen=True)
class Figure:
    """A measure over the pairs of a benchmark."""

    mean: float  # over scenes, each counted once
    mean_interval: Interval
    pair_mean: float  # over pairs, each counted once; their median, where the measure is one
    pair_interval: Interval
    pairs: int
    scenes: Mapping[str, float]
    counts: Mapping[str, int]  # pairs of each scene


@dataclass(frozen=True)
class Share:
    """So many of so many."""

    count: int
    total: int

    @property
    def value(self) -> float:
        """NaN of none."""
        return self.count / self.total if self.total else math.nan

    @property
    def interval(self) -> Interval:
        """By Wilson's formula, which is fair also for none or all of a few (JASA 1927).

        >>> Share(0, 200).interval.high.__round__(3)
        0.019
        """
        if not self.total:
            return Interval(math.nan, math.nan)
        p, n, z = self.value, self.total, _WILSON
        centre, scale = p + z * z / (2 * n), 1 + z * z / n
        half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return Interval(max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale))


@dataclass(frozen=True)
class Verdicts:
    """How far a method's own judgement can be trusted; right is within the bounds of the summary."""

    accepted: Share  # of pairs that overlap
    accepted_right: Share  # of those accepted
    right_accepted: Share  # of those right
    false_accepts: Share  # of pairs that do not overlap
    calibration_error: float  # NaN without confidences


@dataclass(frozen=True)
class Failure:
    """A pair that was not registered because something broke."""

    pair: str
    fault: str
    reason: str


@dataclass(frozen=True)
class MethodSummary:
    """One method under one condition."""

    method: str
    condition: str
    pairs: int  # that overlap
    disjoint: int
    failures: tuple[Failure, ...]
    figures: Mapping[str, Figure]  # by name of the measure
    by_overlap: Mapping[str, Share]  # right poses, by range of overlap
    verdicts: Verdicts | None  # None where it gives none
    cost: Mapping[str, float]  # medians of seconds, and the highest peak of memory


@dataclass(frozen=True)
class Gap:
    """What is lost when the scans are turned, pair by pair: original minus the mean over the other conditions."""

    method: str
    measure: str
    mean: float
    mean_interval: Interval


@dataclass(frozen=True)
class Column:
    """What a measure is called and what it means."""

    label: str
    meaning: str
    unit: Unit


@dataclass(frozen=True)
class Summary:
    """All figures of an evaluation."""

    benchmark: str
    bounds: Bounds
    columns: Mapping[str, Column]
    methods: tuple[MethodSummary, ...]
    gaps: tuple[Gap, ...]


def summarise(
    benchmark: str, pairs: Sequence[ScanPair], records: Sequence[Record], *, bounds: Bounds | None = None, seed: int = 0
) -> Summary:
    """Figures of an evaluation.

    A pair that failed counts as not registered and as without an inlier. Intervals of figures are percentiles of 1000
    bootstrap samples of the pairs of each scene; pairs that share a scan are not independent, so they are a little too
    narrow. Shares have Wilson intervals.

    Args:
        benchmark: its name.
        pairs: the whole list, in its order, also if records are of a part of it.
        records: as `evaluate` gives them.
        bounds: of a pose that counts as right, where a recall does not say otherwise.
        seed: of the bootstrap.
    """
    bounds = bounds or Bounds()
    measures = measures_of(pairs, records, bounds)
    by_name = {pair.name: pair for pair in pairs}
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        groups.setdefault((record.condition, record.method), []).append(record)
    return Summary(
        benchmark,
        bounds,
        {measure.name: Column(measure.label, measure.meaning, measure.unit) for measure in measures},
        tuple(_of_method(group, by_name, measures, bounds, seed) for group in groups.values()),
        tuple(_gaps(groups, by_name, measures, seed)),
    )


def _of_method(
    records: Sequence[Record], pairs: Mapping[str, ScanPair], measures: Sequence[Measure], bounds: Bounds, seed: int
) -> MethodSummary:
    together = [record for record in records if _overlaps(pairs[record.pair])]
    apart = [record for record in records if not _overlaps(pairs[record.pair])]
    figures = {}
    for measure in measures:
        values = _values(measure, records)
        if values:
            scenes = [pairs[name].scene for name in values]
            figures[measure.name] = _figure(list(values.values()), scenes, measure, seed)
    rigid = not any(pairs[record.pair].deforming for record in records)
    return MethodSummary(
        method=records[0].method,
        condition=records[0].condition,
        pairs=len(together),
        disjoint=len(apart),
        failures=tuple(
            Failure(record.pair, record.fault or "method", record.failure)
            for record in records
            if record.failure is not None
        ),
        figures=figures,
        by_overlap=_by_overlap(together, pairs, bounds) if rigid else {},
        verdicts=_verdicts(together, apart, bounds) if rigid else None,
        cost=_cost(records),
    )


def _overlaps(pair: ScanPair) -> bool:
    return pair.T_target_source is not None or pair.deforming


def _values(measure: Measure, records: Sequence[Record]) -> dict[str, float]:
    """By pair; empty where the method says nothing about it."""
    if measure.needs is not None and not any(measure.needs in record.scores for record in records):
        return {}
    values = {record.pair: measure.value(record) for record in records if record.pair in measure.pairs}
    return {name: value for name, value in values.items() if value is not None}


def _figure(values: Sequence[float], scenes: Sequence[str], measure: Measure, seed: int) -> Figure:
    found = mean_over_scenes(values, scenes, statistic=measure.statistic)
    statistic = np.mean if measure.statistic == "mean" else np.median
    of_scenes, of_pairs = _bootstrap(values, scenes, statistic, seed)
    return Figure(
        found.mean, of_scenes, float(statistic(values)), of_pairs, len(values), dict(found.scenes), dict(found.counts)
    )


def _bootstrap(
    values: Sequence[float], scenes: Sequence[str], statistic: Callable[..., np.ndarray], seed: int
) -> tuple[Interval, Interval]:
    """Intervals of the mean over scenes and of the statistic over all pairs; pairs are drawn again within scenes."""
    generator = np.random.default_rng(seed)
    numbers, names = np.asarray(values, dtype=np.float64), np.asarray(scenes)
    parts = [numbers[names == name] for name in dict.fromkeys(scenes)]
    drawn = [part[generator.integers(len(part), size=(RESAMPLES, len(part)))] for part in parts]
    means = np.mean([statistic(part, axis=1) for part in drawn], axis=0)
    return _percentiles(means), _percentiles(statistic(np.concatenate(drawn, axis=1), axis=1))


def _percentiles(values: np.ndarray) -> Interval:
    low, high = np.quantile(values, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    return Interval(float(low), float(high))


def _by_overlap(records: Sequence[Record], pairs: Mapping[str, ScanPair], bounds: Bounds) -> dict[str, Share]:
    shares = {}
    for low, high in pairwise(OVERLAP_EDGES):
        inside = [
            record
            for record in records
            if (overlap := pairs[record.pair].overlap) is not None and (low < overlap <= high or overlap == low == 0)
        ]
        if inside:
            shares[f"{low:g} to {high:g}"] = Share(sum(map(bounds.right, inside)), len(inside))
    return shares


def _verdicts(together: Sequence[Record], apart: Sequence[Record], bounds: Bounds) -> Verdicts | None:
    if all(record.accepted is None for record in (*together, *apart)):
        return None
    # A method that broke has refused nothing.
    apart = [record for record in apart if record.failure is None]
    accepted = [record for record in together if record.accepted]
    right = [record for record in together if bounds.right(record)]
    both = sum(map(bounds.right, accepted))
    # Of scans that do not overlap no pose is right.
    stated = [
        (record.confidence, bounds.right(record)) for record in (*together, *apart) if record.confidence is not None
    ]
    return Verdicts(
        accepted=Share(len(accepted), len(together)),
        accepted_right=Share(both, len(accepted)),
        right_accepted=Share(both, len(right)),
        false_accepts=Share(sum(bool(record.accepted) for record in apart), len(apart)),
        calibration_error=expected_calibration_error([each for each, _ in stated], [true for _, true in stated]),
    )


def _cost(records: Sequence[Record]) -> dict[str, float]:
    """Of the pairs that were measured; the first of a process also pays for loading."""
    cost = {}
    for name, over in (("seconds", statistics.median), ("cpu_seconds", statistics.median), ("peak_mb", max)):
        values = [value for record in records if (value := record.cost.get(name)) is not None]
        if values:
            cost[name] = float(over(values))
    return cost


def _gaps(
    groups: Mapping[tuple[str, str], Sequence[Record]],
    pairs: Mapping[str, ScanPair],
    measures: Sequence[Measure],
    seed: int,
) -> list[Gap]:
    """Of every share, the first condition minus the others."""
    conditions, methods = (list(dict.fromkeys(names)) for names in zip(*groups, strict=True))
    found = []
    for method in methods:
        for measure in measures:
            if measure.unit != "share" or len(conditions) < 2:
                continue
            first, *others = (_values(measure, groups[condition, method]) for condition in conditions)
            names = [name for name in first if all(name in other for other in others)]
            if names:
                differences = [first[name] - statistics.fmean(other[name] for other in others) for name in names]
                scenes = [pairs[name].scene for name in names]
                figure = _figure(differences, scenes, measure, seed)
                found.append(Gap(method, measure.name, figure.mean, figure.mean_interval))
    return found
