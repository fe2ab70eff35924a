"""`python -m zerogate.comparison FOLDER/cell.json`: what a comparison starts for each of its cells."""

from zerogate.comparison.cell import main

main()
