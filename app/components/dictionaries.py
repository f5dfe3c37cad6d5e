from dash import html


def dictionaries(session):
    return html.Div()
