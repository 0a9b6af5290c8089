"""ResourceClaims (KEP-3063, KEP-4381): made from templates for pods, given back when those have ended."""

from controllers.resourceclaims.controller import ResourceClaimController

__all__ = ["ResourceClaimController"]
