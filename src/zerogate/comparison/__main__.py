"""`python -m zerogate.comparison FOLDER/cell.json`: a cell of a comparison."""

from argparse import ArgumentParser
from pathlib import Path

from zerogate.comparison.cell import main
from zerogate.comparison.processes import end_with, fork_cells

parser = ArgumentParser(prog="python -m zerogate.comparison", description="Run a cell of a comparison.")
parser.add_argument("file", nargs="?", type=Path, help="its cell.json")
parser.add_argument("--answers", type=int, help="fork cells as standard input asks for, and write their statuses here")
parser.add_argument("--while", type=int, dest="pipe", help="end when this pipe closes")
asked = parser.parse_args()

if asked.answers is not None:
    asked.file = Path(fork_cells(asked.answers))
if asked.pipe is not None:
    end_with(asked.pipe)
main(asked.file)
