"""Count the lines that come in; say each once with its count."""

import sys
from collections import Counter

for word, count in Counter(line.strip() for line in sys.stdin).items():
    print(count, word)
