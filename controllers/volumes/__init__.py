"""Claims meet volumes: binding, reclaiming, growing, and the claims of generic ephemeral volumes."""

from controllers.volumes.binder import VolumeBinderController
from controllers.volumes.ephemeral import EphemeralVolumeController
from controllers.volumes.expander import VolumeExpanderController

__all__ = ["EphemeralVolumeController", "VolumeBinderController", "VolumeExpanderController"]
