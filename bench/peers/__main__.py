"""`python -m bench.peers [DIR]`: make the environments of the peers."""

import sys
from pathlib import Path

from bench.peers import FOLDER, make

if __name__ == "__main__":
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
