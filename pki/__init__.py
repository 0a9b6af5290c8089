"""Certificate authorities, certificates, kubeconfigs, encryption keys."""
