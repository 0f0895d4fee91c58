"""Deal the words of a file out to two neighbours, by their first letter."""

import os
import re
import sys
from pathlib import Path

with os.fdopen(int(os.environ["LEFT"]), "w") as left, os.fdopen(int(os.environ["RIGHT"]), "w") as right:
    for word in re.findall(r"[a-z]+", Path(sys.argv[1]).read_text().lower()):
        print(word, file=left if word < "m" else right)
