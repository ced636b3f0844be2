"""From a data file to batches. No torch: the worker, the encoder processes and `keepstep data check` share this code.

The sub-packages, each of which imports only those after it:

processes   the processes: encoders, the file check, the row locator
plan        the tokens of a file on disk, and which rows make up which step
examine     what a file contains: problems, duplicates, the report
encode      rows to token ids, fitted to `max_length` and the model
template    conversations to text, and which part of it the assistant writes
format      records to rows: the formats, their keys, tools and messages
read        bytes to records: containers, compression, strict JSON
problems    everything that can be wrong with a file
"""
