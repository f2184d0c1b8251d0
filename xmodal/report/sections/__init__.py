"""Sections of the report page: each turns the records of the runs into charts and tables."""
