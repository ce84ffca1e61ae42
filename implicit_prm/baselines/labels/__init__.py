"""Step labels for explicit process reward models: Math-Shepherd, AutoPSV, and exact labels for the sandbox."""
