"""Custom resources: what a CustomResourceDefinition means, and how its kinds come to be served."""
