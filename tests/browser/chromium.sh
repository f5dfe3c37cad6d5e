#!/bin/sh
# Finds a Chromium for the browser tests, or installs one where that takes no question.
for name in "$WORKBENCH_CHROMIUM" chromium chromium-browser google-chrome; do
    [ -n "$name" ] && command -v "$name" >/dev/null 2>&1 && exit 0
done
if command -v apt-get >/dev/null 2>&1 && [ "$(id -u)" = 0 ]; then
    echo "Installing Chromium for the browser tests"
    apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends chromium && exit 0
fi
.venv/bin/python -m playwright install chromium && exit 0
echo "No Chromium was found or could be installed: the browser tests will be skipped. Install one, or set WORKBENCH_CHROMIUM." >&2
