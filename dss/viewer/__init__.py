"""Turn a run or a mesh around in the browser."""
