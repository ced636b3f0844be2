"""`keepstep self-correction`: rounds of answers, the files that follow, and why it stopped."""
