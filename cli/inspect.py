"""`rotaware inspect`: what the loader sees in a file, before any registration."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .messages import ExitCode, format_count, format_extent, format_length, format_number

if TYPE_CHECKING:
    import numpy as np

    from rotaware.pointcloud import PointCloud

SUMMARY = "show what a point cloud file holds: counts, extent, unit, spacing, defects, attributes"

# Spacing is measured on this many points against the whole cloud.
_SPACING_SAMPLE = 5000
# Ratio of the thinnest to the next side of the cloud: below it, the cloud counts as flat (or, one up, as a line).
_FLAT = 1e-3
# Distance from the origin in extents from which coordinates count as map coordinates (product specification 9).
_FAR = 1e4
# Rounding of the stored coordinates, as a share of the spacing, that starts to hurt.
_COARSE_STEP = 0.5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `rotaware inspect`."""
    parser.add_argument("cloud", metavar="CLOUD", help="a point cloud or mesh file")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(options: argparse.Namespace) -> int:
    """Read the file and print what was found."""
    from rotaware.pointcloud import read_point_cloud

    from .result_json import dump

    findings = describe_cloud(read_point_cloud(options.cloud), Path(options.cloud))
    print(dump(findings), end="") if options.json else print("\n".join(_lines(findings)))
    return int(ExitCode.REGISTERED)


def describe_cloud(cloud: PointCloud, path: Path) -> dict[str, Any]:
    """Facts about a cloud, as JSON-ready values; lengths in the file's unit."""
    import numpy as np

    from rotaware.pointcloud import guess_unit

    points = cloud.points
    finite = points[np.isfinite(points).all(axis=1)]
    unique = _distinct(finite)
    low, high = (finite.min(axis=0), finite.max(axis=0)) if len(finite) else (None, None)
    findings = {
        "path": str(path),
        "format": " ".join(part for part in (cloud.layout.format, cloud.layout.variant) if part),
        "bytes": path.stat().st_size,
        "points": len(points),
        "nonfinite": len(points) - len(finite),
        "duplicates": len(finite) - len(unique),
        "low": low,
        "high": high,
        "extent": None if low is None or high is None else high - low,
        "unit": None if low is None or high is None else guess_unit(high - low),
        "spacing": _spacing(unique),
        "shape": _shape(unique),
        "normals": cloud.normals is not None,
        "colors": cloud.colors is not None,
        "sensor": cloud.viewpoint,
        "coordinates": str(cloud.layout.coordinate_dtype),
        "coordinate_step": cloud.layout.coordinate_step,
        "attributes": {name: _kind(values) for name, values in cloud.attributes.items()},
    }
    return findings | {"notes": _notes(findings)}


def _distinct(points: np.ndarray) -> np.ndarray:
    """Rows of (N, 3) without exact repetitions, sorted; several times faster than `np.unique` over rows."""
    import numpy as np

    ordered = points[np.lexsort(points.T)]
    fresh = np.ones(len(ordered), dtype=bool)
    fresh[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    return ordered[fresh]


def _spacing(points: np.ndarray) -> float | None:
    """Median distance to the nearest other point."""
    import numpy as np
    from scipy.spatial import cKDTree

    if len(points) < 2:
        return None
    sample = points[:: max(len(points) // _SPACING_SAMPLE, 1)]
    return float(np.median(cKDTree(points).query(sample, k=2)[0][:, 1]))


def _shape(points: np.ndarray) -> str:
    """`volume`, `plane`, `line`, `single point` or `empty`, from the spread along the principal axes."""
    import numpy as np

    if len(points) < 2:
        return "single point" if len(points) else "empty"
    # Eigenvalues of the scatter matrix are squared lengths; the root of rounding noise must stay below _FLAT.
    centred = points - points.mean(axis=0)
    centred /= np.abs(centred).max()
    _, _, axes = np.linalg.svd(centred.T @ centred)
    widest, middle, thinnest = (float(np.std(centred @ axis)) for axis in axes)
    if middle < _FLAT * widest:
        return "line"
    return "plane" if thinnest < _FLAT * middle else "volume"


def _kind(values: np.ndarray) -> str:
    shape = "".join(f" x {side}" for side in values.shape[1:])
    return f"{values.dtype}{shape}"


def _lines(findings: dict[str, Any]) -> list[str]:
    unit = findings["unit"]
    total = findings["points"]
    lines = {
        "file": f"{findings['path']}   {findings['format']}   {format_count(findings['bytes'])} bytes",
        "points": f"{format_count(total)}   {findings['coordinates']} coordinates",
        "dropped": f"{_share(findings['nonfinite'], total)} NaN or infinite, "
        f"{_share(findings['duplicates'], total)} exact duplicates",
    }
    if findings["extent"] is not None:
        low, high = findings["low"], findings["high"]
        lines["extent"] = format_extent(findings["extent"])
        lines["box"] = f"({_numbers(low)}) to ({_numbers(high)})"
        lines["unit"] = f"{unit} (guessed)"
    if findings["spacing"] is not None:
        lines["spacing"] = format_length(findings["spacing"], unit)
    lines["shape"] = findings["shape"]
    lines["normals"] = "in the file" if findings["normals"] else "none (will be estimated)"
    lines["colors"] = "in the file" if findings["colors"] else "none"
    lines["sensor"] = f"({_numbers(findings['sensor'])})" if findings["sensor"] is not None else "not stated"
    lines["attributes"] = ", ".join(f"{name} {kind}" for name, kind in findings["attributes"].items()) or "none"
    return [f"{name:<11} {text}" for name, text in lines.items()] + [f"note: {note}" for note in findings["notes"]]


def _share(part: int, total: int) -> str:
    return f"{format_count(part)} ({100 * part / total:.1f} %)" if part and total else format_count(part)


def _numbers(values: np.ndarray) -> str:
    return ", ".join(format_number(float(value), 6) for value in values)


def _notes(findings: dict[str, Any]) -> list[str]:
    """What would make a registration fail or disappoint."""
    notes = []
    usable = findings["points"] - findings["nonfinite"] - findings["duplicates"]
    if usable < 3:
        notes.append(f"{usable} usable points; registration needs 3 and about 500 are advisable")
    elif findings["shape"] == "line":
        notes.append("all points lie on one line: the rotation about it cannot be observed")
    elif findings["shape"] == "plane":
        notes.append("all points lie on one plane: shifts along it and the turn about its normal cannot be observed")
    if findings["extent"] is not None:
        size = max(findings["extent"])
        reach = max(abs(value) for value in (*findings["low"], *findings["high"]))
        if reach > _FAR * size > 0:
            notes.append("map coordinates: far from the origin compared with the size; handled in float64")
        if findings["coordinate_step"] > _COARSE_STEP * (findings["spacing"] or 0) > 0:
            step = format_length(findings["coordinate_step"], findings["unit"])
            notes.append(f"coordinates are rounded to {step} in this file; export it again as float64")
    return notes
