"""Pictures of results: one family a file, each a pure function from a result to a `plotly.graph_objects.Figure`."""
