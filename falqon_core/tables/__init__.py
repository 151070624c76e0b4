"""Parquet, CSV and JSON become JSON lines: rows are read one after the other in bounded memory, and
each row is a line with the fields of a record. The lines are checked afterwards like any others.
"""
