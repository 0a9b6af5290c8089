"""Property tests here are judged by what they find, not by how loaded the machine is."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("apimachinery", deadline=None)
settings.load_profile("apimachinery")
