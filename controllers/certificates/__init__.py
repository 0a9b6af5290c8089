"""CertificateSigningRequests: approving kubelets' own, signing what is approved, removing what is old."""

from controllers.certificates.controllers import CSRApprover, CSRCleaner, CSRSigner

__all__ = ["CSRApprover", "CSRCleaner", "CSRSigner"]
