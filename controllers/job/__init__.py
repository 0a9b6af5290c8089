"""Job: run pods of one template until enough of them have succeeded."""

from controllers.job.controller import JobController

__all__ = ["JobController"]
