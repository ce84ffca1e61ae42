"""`report.html`: a self-contained page with figures, tables, and solutions with coloured steps."""
