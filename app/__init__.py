"""The dashboard. Nothing is computed here: pages ask the session for results and show their figures."""
