"""`python -m zerogate.comparison FOLDER/cell.json`: a cell of a comparison; `--answers FD`: what forks them."""

import sys
from pathlib import Path

from zerogate.comparison.cell import main
from zerogate.comparison.processes import fork_cells

main(Path(fork_cells(int(sys.argv[2])) if sys.argv[1] == "--answers" else sys.argv[1]))
