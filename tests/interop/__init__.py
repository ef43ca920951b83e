"""Brokers and peers that nobody here wrote, and the tables of docs/interoperability.md made by their runs."""
