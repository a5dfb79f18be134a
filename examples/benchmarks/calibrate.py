"""How sure may the verdict be? The confidence of `register`, fitted to evaluations and checked on others.

Every record of `rotaware evaluate` holds the evidence that the confidence was calculated from, so all it takes are
evaluations of generated rooms with pairs that do not overlap:

    for set in fit:500000 check:600000; do
        python examples/roitr/generate_rooms.py rooms/${set%:*} --rooms 40 --first-seed ${set#*:} \\
            --least-overlap 0.05 --most-overlap 0.5
        rotaware evaluate rooms/${set%:*} --method auto --method roitr --method classic --limit 120 --disjoint 120 \\
            -o evaluations/${set%:*}
    done
    python examples/benchmarks/calibrate.py --fit evaluations/fit --check evaluations/check --output calibration.json

A logistic model for each set of engines, with weights that are not negative: more matches never lower the
confidence. A pose is right within 15 degrees and 0.30 m; of scans of different rooms none is. The file belongs in
`pointcloud/weights/verdict/`; its curves and shares are those of the evaluations that were not fitted.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from protocol import markdown_table, share
from scipy.optimize import minimize

from rotaware.geo.files import write_whole
from rotaware.pointcloud import expected_calibration_error
from rotaware.pointcloud.calibration import TERMS, confidence_with, model_name
from rotaware.pointcloud.evaluation_measures import Bounds
from rotaware.pointcloud.evaluation_records import read_record
from rotaware.pointcloud.verdict import THRESHOLDS

# Variance of a weight, per standard deviation of its term, expected beforehand: separable data have no best fit.
PRIOR_VARIANCE = 9.0
BINS = 10


@dataclass(frozen=True)
class Look:
    """The evidence of one pair, and the truth."""

    evidence: Mapping[str, float]
    overlaps: bool
    right: bool
    accepted: bool


def looks(folders: Sequence[Path]) -> dict[str, list[Look]]:
    """The records below `folders`, by engines."""
    found: dict[str, list[Look]] = {}
    for folder in folders:
        for file in sorted(folder.glob("results/*/*/*.json")):
            record = read_record(file)
            if record is None or record.evidence is None:
                continue
            look = Look(record.evidence, bool(record.scores), Bounds().right(record), bool(record.accepted))
            found.setdefault(model_name(look.evidence), []).append(look)
    return found


def fit(chosen: Sequence[Look], names: Sequence[str]) -> dict[str, Any]:
    """Bias and weights of the most likely model."""
    terms = np.array([[TERMS[name](look.evidence[name]) for name in names] for look in chosen])
    right = np.array([look.right for look in chosen], dtype=float)
    centre, scale = terms.mean(axis=0), np.maximum(terms.std(axis=0), 1e-9)
    terms = (terms - centre) / scale

    def loss(parameters: np.ndarray) -> float:
        odds = parameters[0] + terms @ parameters[1:]
        prior = np.square(parameters[1:]).sum() / (2.0 * PRIOR_VARIANCE)
        return float((np.logaddexp(0.0, odds) - right * odds).sum() + prior)

    bounds = [(None, None), *[(0.0, None)] * len(names)]
    best = minimize(loss, np.zeros(len(bounds)), bounds=bounds, method="L-BFGS-B").x
    weights = best[1:] / scale
    return {
        "bias": round(float(best[0] - weights @ centre), 4),
        "weights": {name: round(float(weight), 4) for name, weight in zip(names, weights, strict=True) if weight > 0},
    }


def measured(model: Mapping[str, Any], chosen: Sequence[Look]) -> dict[str, Any]:
    """Calibration error, curve, and what comes of the thresholds alone."""
    confidence = np.array([confidence_with(model, look.evidence) for look in chosen])
    right = np.array([look.right for look in chosen])
    apart = np.array([not look.overlaps for look in chosen])
    place = np.minimum((confidence * BINS).astype(int), BINS - 1)
    return {
        "pairs": len(chosen),
        "right": int(right.sum()),
        "apart": int(apart.sum()),
        "calibration_error": round(expected_calibration_error(confidence.tolist(), right.tolist()), 4),
        "thresholds": {
            name: {
                "right_above": int((right & (confidence >= threshold)).sum()),
                "wrong_above": int((~right & ~apart & (confidence >= threshold)).sum()),
                "apart_above": int((apart & (confidence >= threshold)).sum()),
            }
            for name, threshold in THRESHOLDS.items()
        },
        "curve": [
            {
                "pairs": int((place == number).sum()),
                "confidence": round(float(confidence[place == number].mean()), 4),
                "right": round(float(right[place == number].mean()), 4),
            }
            for number in range(BINS)
            if (place == number).any()
        ],
        "verdict": {
            "right_accepted": sum(look.right and look.accepted for look in chosen),
            "wrong_accepted": sum(look.accepted and look.overlaps and not look.right for look in chosen),
            "apart_accepted": sum(look.accepted and not look.overlaps for look in chosen),
        },
    }


def cross_validated(chosen: Sequence[Look], names: Sequence[str], folds: int = 5) -> float:
    """Calibration error where no pair is predicted by a model that has seen it."""
    confidence, right = [], []
    for fold in range(folds):
        model = fit([look for k, look in enumerate(chosen) if k % folds != fold], names)
        for look in chosen[fold::folds]:
            confidence.append(confidence_with(model, look.evidence))
            right.append(look.right)
    return expected_calibration_error(confidence, right)


def report_of(found: Mapping[str, Any]) -> str:
    """The table of thresholds and the curves."""
    rows, curves = [], []
    for engines, checked in found.items():
        for name, above in checked["thresholds"].items():
            rows.append(
                [
                    engines,
                    checked["on"],
                    f"{name}, {THRESHOLDS[name]:g}",
                    share(above["right_above"], checked["right"]),
                    str(above["wrong_above"]),
                    share(above["apart_above"], checked["apart"]),
                    f"{checked['calibration_error']:.3f}",
                ]
            )
        curve = [[str(point[key]) for key in ("pairs", "confidence", "right")] for point in checked["curve"]]
        curves.append(f"{engines}\n\n" + markdown_table(["pairs", "mean confidence", "share right"], curve))
    heads = [
        "engines",
        "pairs",
        "threshold",
        "right poses above it",
        "wrong poses above it",
        "no overlap, above it",
        "ECE",
    ]
    return "\n\n".join([markdown_table(heads, rows), *curves]) + "\n"


def main(arguments: list[str] | None = None) -> None:
    """Fit, check, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--fit", type=Path, nargs="+", required=True, metavar="DIR", help="outputs of rotaware evaluate"
    )
    parser.add_argument("--check", type=Path, nargs="*", default=[], metavar="DIR", help="others, that are not fitted")
    parser.add_argument("--output", type=Path, help="file for the models")
    options = parser.parse_args(arguments)
    fitted, others = looks(options.fit), looks(options.check)
    if not fitted:
        parser.error(f"--fit: expected evaluations with evidence, found none below {', '.join(map(str, options.fit))}")
    models, checked = {}, {}
    for engines, chosen in fitted.items():
        if len({look.right for look in chosen}) < 2:
            parser.error(f"{engines}: expected right and wrong poses, got {len(chosen)} of one kind")
        names = [name for name in chosen[0].evidence if name in TERMS]
        models[engines] = fit(chosen, names) | {"pairs": len(chosen)}
        error = cross_validated(chosen, names)
        print(f"{engines}: {len(chosen)} pairs, calibration error {error:.3f} in cross validation", file=sys.stderr)
        seen = "others" if engines in others else "those of the fit"
        checked[engines] = measured(models[engines], others.get(engines, chosen)) | {"on": seen}
    if options.output is not None:
        what = {"models": models, "checked": {engines: checked[engines] for engines in checked if engines in others}}
        write_whole(options.output, json.dumps(what, indent=1) + "\n")
    print(report_of(checked), end="")


if __name__ == "__main__":
    main()
