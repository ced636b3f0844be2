"""Report metrics to other tools: a process for each tool that follows the journal with a cursor."""
