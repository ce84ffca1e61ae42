"""`report.html`: one page that stands alone, with figures, tables and the solutions coloured step by step."""
