"""Deployment: move pods from one template to the next by scaling ReplicaSets."""

from controllers.deployment.controller import DeploymentController

__all__ = ["DeploymentController"]
