"""What an API object is: scheme, metadata, selectors, quantities, schema, patches, tables and errors."""
