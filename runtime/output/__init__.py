"""JSON Schemas: checked, rewritten, compiled to grammars, and outputs validated against them."""
