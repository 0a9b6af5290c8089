"""PodSecurity (KEP-2579): the Pod Security Standards, by labels of namespaces."""
