"""Explanations for other tools: the public functions of `views.export`."""

from .views.export import export, table_of, to_bertviz, write_example_files, write_table

__all__ = ["export", "table_of", "to_bertviz", "write_example_files", "write_table"]
