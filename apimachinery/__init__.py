"""What an API object is: scheme, metadata, selectors, quantities, schemas, patches and errors. Pure: no I/O."""
