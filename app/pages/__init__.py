"""The pages. Each has a `PageState` (its URL), a `TITLE`, a `layout(session, state)` and a `register(app, session)`."""
