"""Parts of load_test_server.py: the server's process, the load, and the tables."""
