"""The commands `plot` and `report`: metrics in the terminal and in other tools."""
