"""Search for responses, step by step or token by token, with any scorer as the guide.

A generator continues prefixes by one step, a guide scores them (`protocols`), and an algorithm decides by their values
which ones are continued (`beam`, `dvts`, `rebase`, `particles`). `run.search_responses` is `ipr-search` as a function.
"""
