"""The live viewer of a registration, in a browser, through viser (extra `viz`); nothing else imports it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import redirect_stdout
from io import BytesIO, StringIO
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image
from scipy.spatial.transform import Rotation

from .normals import estimate_normals
from .rasteriser import (
    INLIER_COLOR,
    NEUTRAL_COLOR,
    OUTLIER_COLOR,
    SHARED_COLOR,
    SOURCE_COLOR,
    TARGET_COLOR,
    best_view,
    colors_from_values,
)
from .report_scene import Scene, build_scene, headline, middle, radius, reason_sentence, transform, verdict_title
from .result import Correspondences, Registration

if TYPE_CHECKING:
    from viser import GuiEvent, ViserServer

_POINT_BUDGET = 120_000
_MAX_POSES = 12
_LINES = ("none", "inliers", "outliers", "all")
# Share of a colour that is left on points that only one cloud shows.
_PALE = 0.4


def start_live_viewer(
    registration: Registration,
    source_points: ArrayLike,
    target_points: ArrayLike,
    *,
    source_name: str,
    target_name: str,
    source_colors: ArrayLike | None = None,
    target_colors: ArrayLike | None = None,
    port: int,
) -> Callable[[], None]:
    """Serves the viewer on this machine only, at http://127.0.0.1:port, from threads of its own.

    Args:
        registration: the result to show.
        source_points: (N, 3), the rows given to `register`, user units.
        target_points: (M, 3), the same.
        source_name: shown as given.
        target_name: the same.
        source_colors: (N, 3) uint8, or None.
        target_colors: (M, 3), the same.
        port: a free one.
    Returns:
        What stops it.
    Raises:
        ImportError: viser is missing.
    """
    try:
        from viser import ViserServer
    except ImportError:
        raise ImportError("the live viewer needs viser: pip install 'rotaware[viz]'") from None
    scene = build_scene(
        registration,
        source_points,
        target_points,
        source_colors=source_colors,
        target_colors=target_colors,
        budget=_POINT_BUDGET,
        max_poses=_MAX_POSES,
    )
    matches = registration.correspondences
    ends = (
        np.asarray(source_points, dtype=np.float64)[matches.source_index],
        np.asarray(target_points, dtype=np.float64)[matches.target_index],
    )
    finite = np.isfinite(ends[0]).all(axis=1) & np.isfinite(ends[1]).all(axis=1)
    ends = ends[0][finite], ends[1][finite]
    matches = Correspondences(
        matches.source_index[finite], matches.target_index[finite], matches.confidence[finite], matches.inlier[finite]
    )
    # What viser prints would stand between our own lines.
    with redirect_stdout(StringIO()):
        server = ViserServer(host="127.0.0.1", port=port, label=f"{source_name} to {target_name}", verbose=False)
    _Viewer(server, registration, scene, matches, ends)

    def stop() -> None:
        with redirect_stdout(StringIO()):
            server.stop()

    return stop


class _Viewer:
    """What is drawn, and the controls that change it; all browsers that look see the same."""

    def __init__(
        self,
        server: ViserServer,
        registration: Registration,
        scene: Scene,
        matches: Correspondences,
        ends: tuple[np.ndarray, np.ndarray],
    ) -> None:
        self._server, self._scene, self._matches, self._ends = server, scene, matches, ends
        self._lock = Lock()
        self._origin = middle(scene.target.points if len(scene.target.points) else scene.source.points)
        self._centers = {"source": middle(scene.source.points), "target": self._origin}
        server.gui.configure_theme(show_logo=False, show_share_button=False)
        server.gui.main_panel.dock_right()
        self._shades = self._stand_back()
        self._add_clouds()
        self._add_controls(registration)
        self._repose()

    def _stand_back(self) -> dict[str, np.ndarray]:
        """Puts the eye where most is seen; returns how bright each point is in light from there."""
        scene = self._scene
        pose = scene.poses[0].matrix if scene.poses else scene.start
        shown = np.concatenate([transform(pose, scene.source.points), scene.target.points])
        self._server.scene.set_up_direction(scene.up)
        view = best_view(shown, scene.up) if len(shown) else scene.up
        focus, reach = middle(shown) - self._origin, radius(shown) or 1.0
        camera = self._server.initial_camera
        camera.fov, camera.near, camera.far = 0.6, reach * 0.02, reach * 60
        camera.look_at, camera.position = focus, focus + view * reach * 3.2
        return {
            "source": _brightness(scene.source.points, view @ pose[:3, :3] / np.linalg.norm(pose[:3, 0])),
            "target": _brightness(scene.target.points, view),
        }

    def _add_clouds(self) -> None:
        self._clouds = {}
        for name, cloud in (("source", self._scene.source), ("target", self._scene.target)):
            self._clouds[name] = self._server.scene.add_point_cloud(
                name,
                (cloud.points - self._centers[name]).astype(np.float32),
                np.zeros((len(cloud.points), 3), dtype=np.uint8),
                point_shape="circle",
                point_shading="flat",
                precision="float32",
            )

    def _add_controls(self, registration: Registration) -> None:
        # Any: viser types the values of its controls as read-only.
        gui: Any = self._server.gui
        scene = self._scene
        gui.add_markdown(_summary(registration, scene))
        labels = [pose.label for pose in scene.poses] or ["No pose could be formed"]
        self._pose = gui.add_dropdown("Pose", labels, visible=len(labels) > 1)
        self._blend = gui.add_slider("Before / after", 0.0, 1.0, 0.01, float(bool(scene.poses)))
        self._blend.disabled = not scene.poses
        self._color = gui.add_dropdown("Colour", color_modes(scene))
        self._size = gui.add_slider("Point size", 0.2, 4.0, 0.1, 1.2)
        shown = {name: gui.add_checkbox(name.capitalize(), True) for name in self._clouds}
        with gui.add_folder("Correspondences", visible=len(self._matches.confidence) > 0):
            self._lines = gui.add_dropdown("Show", _LINES)
            self._threshold = gui.add_slider("Least confidence", 0.0, 1.0, 0.01, 0.0)
            self._count = gui.add_text("Shown", "0", disabled=True)
        save = gui.add_button("Save picture", hint="The window as it is, as registration.png")
        self._matrix = gui.add_markdown("")

        for control, update in (
            (self._pose, self._repose),
            (self._blend, self._move),
            (self._color, self._recolor),
            (self._size, self._recolor),
            (self._lines, self._draw_lines),
            (self._threshold, self._draw_lines),
        ):
            control.on_update(lambda _, update=update: self._one_by_one(update))
        for name, box in shown.items():
            box.on_update(lambda event, name=name: setattr(self._clouds[name], "visible", event.target.value))
        save.on_click(_save_picture)

    @property
    def _chosen(self) -> int:
        return int(self._pose.options.index(self._pose.value))

    def _one_by_one(self, update: Callable[[], None]) -> None:
        # Events come in threads: the last to get here reads the latest values, and must be the last to draw.
        with self._lock:
            update()

    def _repose(self) -> None:
        self._recolor()
        self._move()

    def _recolor(self) -> None:
        colors = point_colors(self._scene, self._color.value, self._chosen)
        for (name, handle), shades in zip(self._clouds.items(), colors, strict=True):
            handle.colors = np.rint(shades * self._shades[name]).astype(np.uint8)
            handle.point_size = self._size.value * getattr(self._scene, name).spacing

    def _motion(self) -> np.ndarray:
        scene = self._scene
        if not scene.poses:
            return scene.start
        return between(scene.start, scene.poses[self._chosen].matrix, self._centers["source"], self._blend.value)

    def _move(self) -> None:
        motion = self._motion()
        scale = float(np.cbrt(np.linalg.det(motion[:3, :3])))
        source = self._clouds["source"]
        x, y, z, w = Rotation.from_matrix(motion[:3, :3] / scale).as_quat()
        source.wxyz = np.array([w, x, y, z])
        source.position = transform(motion, self._centers["source"][None])[0] - self._origin
        source.scale = scale
        if self._scene.poses:
            rows = "\n".join(" ".join(f"{v:10.6f}" for v in row) for row in self._scene.poses[self._chosen].matrix)
            self._matrix.content = f"**Transform**, source to target\n```\n{rows}\n```"
        self._draw_lines()

    def _draw_lines(self) -> None:
        scene, index = self._scene, self._chosen
        pose = scene.poses[index].matrix if scene.poses and index > 0 else None
        fits = inliers_under(pose, self._matches, *self._ends, scene.residual_limit / 2)
        rows = shown_matches(self._matches, fits, self._lines.value, self._threshold.value)
        ends = np.stack([transform(self._motion(), self._ends[0][rows]), self._ends[1][rows]], axis=1) - self._origin
        colors = np.where(fits[rows, None, None], INLIER_COLOR, OUTLIER_COLOR).repeat(2, axis=1)
        self._count.value = str(len(rows))
        self._server.scene.add_line_segments(
            "correspondences",
            ends.astype(np.float32),
            colors.astype(np.uint8),
            thickness=1.5,
            thickness_units="screen",
            visible=len(rows) > 0,
        )


def color_modes(scene: Scene) -> tuple[str, ...]:
    """What `point_colors` can colour this scene by."""
    modes = ["cloud"]
    if scene.poses:
        modes += ["residual", "overlap"]
    if np.isfinite(scene.source.confidence).any():
        modes.append("confidence")
    if scene.source.colors is not None or scene.target.colors is not None:
        modes.append("original")
    return (*modes, "height")


def point_colors(scene: Scene, mode: str, pose: int) -> tuple[np.ndarray, np.ndarray]:
    """Colours of the source's and the target's points under a pose, each (N, 3) uint8.

    Args:
        scene: from `build_scene`.
        mode: one of `color_modes(scene)`.
        pose: index into `scene.poses`; without any pose, the source counts where it is drawn before.
    """
    source, target = scene.source, scene.target
    plain = [
        np.broadcast_to(np.array(color, dtype=np.uint8), cloud.points.shape)
        for cloud, color in ((source, SOURCE_COLOR), (target, TARGET_COLOR))
    ]
    neutral = [np.broadcast_to(np.array(NEUTRAL_COLOR, dtype=np.uint8), each.shape) for each in plain]
    if mode == "residual":
        return colors_from_values(scene.poses[pose].residual / scene.residual_limit), neutral[1]
    if mode == "overlap":
        distances = (scene.poses[pose].residual, scene.poses[pose].residual_target)
        near = [distance[:, None] < scene.residual_limit / 2 for distance in distances]
        pale = [np.rint(255 + _PALE * (each.astype(np.float64) - 255)) for each in plain]
        mixed = [np.where(n, SHARED_COLOR, p).astype(np.uint8) for n, p in zip(near, pale, strict=True)]
        return mixed[0], mixed[1]
    if mode == "confidence":
        clouds = zip((source, target), neutral, strict=True)
        ramped = [
            np.where(np.isfinite(c.confidence)[:, None], colors_from_values(np.nan_to_num(c.confidence)), n)
            for c, n in clouds
        ]
        return ramped[0], ramped[1]
    if mode == "original":
        own = [n if c.colors is None else c.colors for c, n in zip((source, target), neutral, strict=True)]
        return own[0], own[1]
    if mode == "height":
        matrix = scene.poses[pose].matrix if scene.poses else scene.start
        heights = [transform(matrix, source.points) @ scene.up, target.points @ scene.up]
        low, high = np.percentile(np.concatenate(heights), (1.0, 99.0))
        span = max(float(high - low), 1e-12)
        return colors_from_values((heights[0] - low) / span), colors_from_values((heights[1] - low) / span)
    return plain[0], plain[1]


def between(start: np.ndarray, pose: np.ndarray, center: np.ndarray, blend: float) -> np.ndarray:
    """The way from `start`, a shift, to `pose`: the cloud turns and grows about `center`, which travels straight.

    Args:
        start: (4, 4).
        pose: (4, 4), rigid or a similarity.
        center: (3,) in the source's frame.
        blend: 0 at `start`, 1 at `pose`.

    >>> half_turn = np.diag([-1.0, -1.0, 1.0, 1.0])
    >>> bool(np.allclose(between(np.eye(4), half_turn, np.zeros(3), 0.5)[:2, :2], [[0, -1], [1, 0]]))
    True
    """
    scale = float(np.cbrt(np.linalg.det(pose[:3, :3])))
    turn = Rotation.from_rotvec(blend * Rotation.from_matrix(pose[:3, :3] / scale).as_rotvec()).as_matrix()
    middles = transform(start, center[None])[0], transform(pose, center[None])[0]
    motion = np.eye(4)
    motion[:3, :3] = scale**blend * turn
    motion[:3, 3] = (1 - blend) * middles[0] + blend * middles[1] - motion[:3, :3] @ center
    return motion


def inliers_under(
    pose: np.ndarray | None, matches: Correspondences, source: np.ndarray, target: np.ndarray, reach: float
) -> np.ndarray:
    """(M,) bool: which correspondences fit; by distance under another `pose`, None is the reported one."""
    if pose is None:
        return matches.inlier
    return np.linalg.norm(transform(pose, source) - target, axis=1) < reach


def shown_matches(matches: Correspondences, fits: np.ndarray, which: str, threshold: float) -> np.ndarray:
    """Rows of the correspondences to draw: `none`, `inliers`, `outliers` or `all`, confident at least `threshold`."""
    wanted = {"none": np.zeros_like(fits), "inliers": fits, "outliers": ~fits, "all": np.ones_like(fits)}[which]
    return np.flatnonzero(wanted & (matches.confidence >= threshold))


def _brightness(points: np.ndarray, light: np.ndarray) -> np.ndarray:
    """(N, 1) in [0, 1]: viser draws points without light, and what has no shade has no shape."""
    if len(points) < 3:
        return np.ones((len(points), 1))
    normals, _ = estimate_normals(points, points, neighbors=12)
    return 0.3 + 0.7 * np.abs(normals @ light)[:, None]


def _summary(registration: Registration, scene: Scene) -> str:
    rows = "\n".join(f"| {name} | {value} |" for name, value in headline(registration, scene))
    checks = "\n".join(
        f"| {'pass' if check.passed else '**fail**'} | {check.name.replace('_', ' ')} | {check.value:.3g} |"
        for check in registration.checks
    )
    return (
        f"**{verdict_title(registration)}** {reason_sentence(registration)}\n\n"
        f"| | |\n|---|---|\n{rows}\n\n| | Check | Value |\n|---|---|---|\n{checks}\n"
    )


def _save_picture(event: GuiEvent[Any]) -> None:
    client = event.client
    if client is None:
        return
    width, height = client.camera.image_width, client.camera.image_height
    picture = Image.fromarray(client.get_render(height, width, transport_format="png", timeout=60.0)).convert("RGBA")
    page = Image.new("RGBA", picture.size, (255, 255, 255, 255))
    buffer = BytesIO()
    Image.alpha_composite(page, picture).convert("RGB").save(buffer, format="PNG")
    client.send_file_download("registration.png", buffer.getvalue())
