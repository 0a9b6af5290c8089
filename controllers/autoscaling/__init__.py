"""HorizontalPodAutoscaler (autoscaling/v2): as many replicas as the measured load needs."""

from controllers.autoscaling.controller import HorizontalPodAutoscalerController

__all__ = ["HorizontalPodAutoscalerController"]
