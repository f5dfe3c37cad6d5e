"""What pages are made of: one component a file, each a plain function that returns Dash components."""
