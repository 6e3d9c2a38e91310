"""What tools/make_evidence.py is made of: results that are kept, tables, figures, numbers."""
