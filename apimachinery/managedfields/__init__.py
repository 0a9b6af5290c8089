"""Who owns which field: managedFields tracking and server-side apply (KEP-555). Pure, on plain dicts.

`fieldset` is the algebra of path sets, `types` what a value's type says about ownership, `walk` the walks
over a value by its type, `owners` the entries of `metadata.managedFields`, `manager` the two operations.
"""
