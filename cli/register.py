"""`rotaware register`: two files in, a result folder and an honest verdict out."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from .messages import EXIT_OF_STATUS, METRES_PER_UNIT, format_count, format_extent
from .options import count, report_formats, vector3, voxel_length
from .progress import Progress, make_progress

if TYPE_CHECKING:
    from rotaware.pointcloud import PointCloud, Registration

    from .outputs import ResultFolder

SUMMARY = "find where SRC lies in the frame of TGT"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `rotaware register`."""
    parser.add_argument("source", metavar="SRC", help="the cloud to move")
    parser.add_argument("target", metavar="TGT", help="the cloud that stays")
    parser.add_argument("-o", "--out", metavar="DIR", help="result folder (default ./<src>__to__<tgt>/)")
    parser.add_argument("--method", choices=("auto", "roitr", "classic", "refine"), default="auto", help="default auto")
    parser.add_argument("--network", metavar="DIR", help="weights of a RoITr of your own (default: the bundled ones)")
    parser.add_argument("--voxel", type=voxel_length, metavar="auto|LENGTH", help="working resolution, such as 5cm")
    parser.add_argument(
        "--scale", choices=("auto", "rigid"), default="auto", help="auto also tries mm against m; rigid never does"
    )
    parser.add_argument("--unit", choices=("auto", *METRES_PER_UNIT), default="auto", help="unit of both files")
    parser.add_argument(
        "--refine", choices=("auto", "none", "gicp", "point", "plane"), default="auto", help="final alignment"
    )
    parser.add_argument(
        "--accept",
        choices=("strict", "balanced", "loose"),
        default="balanced",
        help="how sure to be (default balanced)",
    )
    parser.add_argument("--hypotheses", type=count(1), default=5, metavar="K", help="poses to compare (default 5)")
    parser.add_argument("--init", metavar="FILE", help="starting pose, source to target: .json, .txt or .npy")
    parser.add_argument("--source-sensor", type=vector3, metavar="X,Y,Z", help="where the scanner of SRC stood")
    parser.add_argument("--target-sensor", type=vector3, metavar="X,Y,Z", help="where the scanner of TGT stood")
    parser.add_argument("--threads", type=count(1), metavar="N", help="CPU threads (default all)")
    parser.add_argument("--seed", type=count(0), default=0, metavar="N", help="random seed (default 0)")
    parser.add_argument(
        "--report", type=report_formats, default="html,png", metavar="html,png|none", help="pictures (default both)"
    )
    parser.add_argument("--merged", action="store_true", help="also write both clouds as one coloured merged.ply")
    parser.add_argument("--json", action="store_true", help="print result.json, and nothing else")
    parser.add_argument("--quiet", action="store_true", help="print only the verdict")
    parser.add_argument(
        "--force", action="store_true", help="write a rejected pose too, and into folders that hold other files"
    )


def run(options: argparse.Namespace) -> int:
    """Register, write the folder, print the verdict; the exit code follows the verdict."""
    return int(EXIT_OF_STATUS[register_files(options).status])


def register_files(options: argparse.Namespace) -> Registration:
    """Everything `rotaware register` does, given its parsed arguments."""
    from rotaware.pointcloud import read_point_cloud

    from .outputs import ResultFolder, write_results
    from .result_json import dump, result_document
    from .verdict import notice_lines, verdict_lines

    source_path, target_path = Path(options.source), Path(options.target)
    for path in (source_path, target_path):
        if not path.is_file():
            # Found out before the other file, perhaps a large one, is read. The reader words the error.
            read_point_cloud(path)
    out = Path(options.out) if options.out else Path(f"{source_path.stem}__to__{target_path.stem}")
    folder = ResultFolder(out, force=options.force)
    folder.check()
    _require_outside(folder, source_path, target_path)

    silent = options.quiet or options.json
    try:
        with make_progress(silent=silent) as progress:
            source, target, registration = _compute(options, source_path, target_path, progress)
            document = result_document(registration, source_path, target_path)
            with folder as temporary:
                write_results(temporary, registration, source, target, document, options)
    except KeyboardInterrupt:
        text = f"interrupted; the result is complete in {out}{os.sep}" if folder.written else ""
        raise KeyboardInterrupt(text) from None

    if options.json:
        sys.stdout.write(dump(document))
        return registration
    if not options.quiet:
        for line in notice_lines(registration):
            print(line, file=sys.stderr)
    print("\n".join(verdict_lines(registration)))
    if not options.quiet:
        view = f"rotaware view {shlex.quote(str(out))}"
        look = f"open report.html, or {view}" if "html" in options.report else view
        print(f"files: {out}{os.sep}   to look around: {look}")
    return registration


def _compute(
    options: argparse.Namespace, source_path: Path, target_path: Path, progress: Progress
) -> tuple[PointCloud, PointCloud, Registration]:
    import numpy as np

    from rotaware import pointcloud

    from .first_run import announce_compilation
    from .transforms import read_transform

    announce_compilation(progress.say, "the search and matching kernels")
    init = read_transform(options.init) if options.init else None
    clouds = []
    for role, path in (("source", source_path), ("target", target_path)):
        cloud = pointcloud.read_point_cloud(path, seed=options.seed)
        progress.say(_cloud_line(role, path, cloud, options.unit))
        clouds.append(cloud)
    source, target = clouds
    sensors = [
        None if sensor is None else np.array(sensor, dtype=np.float64)
        for sensor in (options.source_sensor, options.target_sensor)
    ]
    registration = pointcloud.register(
        source,
        target,
        method=options.method,
        network=options.network,
        voxel=None if options.voxel is None else options.voxel.in_unit(_unit(options.unit, source)),
        scale=options.scale,
        refine=options.refine,
        accept=options.accept,
        hypotheses=options.hypotheses,
        init=init,
        source_sensor=sensors[0],
        target_sensor=sensors[1],
        unit=options.unit,
        threads=options.threads,
        seed=options.seed,
        on_stage=progress.on_stage,
    )
    return source, target, registration


def _cloud_line(role: str, path: Path, cloud: PointCloud, stated_unit: str) -> str:
    from rotaware.pointcloud import guess_unit

    extent = _extent(cloud)
    if extent is None:
        return f"{role}  {path.name}   {format_count(len(cloud))} pts   none of them finite"
    unit = f"{guess_unit(extent)} (guessed)" if stated_unit == "auto" else stated_unit
    return f"{role}  {path.name}   {format_count(len(cloud))} pts   {format_extent(extent)}   unit: {unit}"


def _unit(stated: str, cloud: PointCloud) -> str:
    from rotaware.pointcloud import guess_unit

    extent = _extent(cloud)
    return guess_unit(extent) if stated == "auto" and extent is not None else stated


def _extent(cloud: PointCloud) -> list[float] | None:
    """Three sides of the box around the finite points, or None when there are none."""
    import numpy as np

    finite = cloud.points[np.isfinite(cloud.points).all(axis=1)]
    return np.ptp(finite, axis=0).tolist() if len(finite) else None


def _require_outside(folder: ResultFolder, *inputs: Path) -> None:
    """A new result must not delete the clouds it was made from."""
    from rotaware.pointcloud import InputError

    from .outputs import is_result_file

    for path in inputs:
        if is_result_file(path) and os.path.realpath(path.parent) == os.path.realpath(folder.path):
            raise InputError(f"{str(path)!r} would be replaced by the result; name another folder with -o")
