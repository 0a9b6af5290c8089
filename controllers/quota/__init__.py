"""ResourceQuota: what is used, computed from what is there."""

from controllers.quota.controller import ResourceQuotaController

__all__ = ["ResourceQuotaController"]
