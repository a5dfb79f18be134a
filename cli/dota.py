"""`rotaware dota`: labelled aerial images, cut, checked, generated."""

from __future__ import annotations

from . import dota_check, dota_scenes, dota_split

SUMMARY = "aerial images with oriented objects: cut them into patches, check them, generate some"
ACTIONS = {"split": dota_split, "check": dota_check, "scenes": dota_scenes}
