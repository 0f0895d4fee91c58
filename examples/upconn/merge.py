"""Put two neighbours' counts together, greatest first."""

import os

lines: list[str] = []
for end in ("FIRST", "SECOND"):
    with os.fdopen(int(os.environ[end])) as counts:
        lines += counts
for line in sorted(lines, key=lambda line: (-int(line.split()[0]), line))[:10]:
    print(line, end="")
