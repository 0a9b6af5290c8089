"""CronJob: a Job at every time its schedule names."""

from controllers.cronjob.controller import CronJobController

__all__ = ["CronJobController"]
