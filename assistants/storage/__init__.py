"""The store: tables, the SQLite writer, and one repository a resource."""
