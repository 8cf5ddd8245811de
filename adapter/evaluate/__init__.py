"""Evaluation: scores of cached samples, metrics with bootstrap intervals, plots and files. `run.evaluate_run` does all of it.

score.py      detector and cache -> predictions, one row a sample
groups.py     which scores are measured together
metrics.py    AUC, EER, average precision, ... of labels and scores
bootstrap.py  their intervals over videos
summary.py    predictions -> one JSON-able document
plots.py      ROC curves and score histograms
write.py      files
run.py        the whole of it
"""
