"""Step labels for explicit process reward models: Math-Shepherd, AutoPSV, and the sandbox's exact checker."""
