"""Evaluation: scores of cached samples, metrics with bootstrap intervals, plots and files. `run.evaluate_run` does all of it.

score.py        detector and cache -> predictions, one row a sample
groups.py       which scores are measured together
metrics.py      AUC, EER, average precision, ... of labels and scores
calibration.py  are scores probabilities: ECE, reliability bins, temperature scaling
validation.py   the val split's predictions, from which alone a temperature comes
bootstrap.py    intervals over videos
digest.py       which checkpoint an evaluation is of
nulls.py        NaN -> null
delong.py       variance of AUCs, and whether two of them differ
paired.py       differences on the same resamples; Holm's correction
summary.py      predictions -> one JSON-able document
protocol.py     the same, the way DeepfakeBench does it
compare.py      two or more evaluated runs on the same samples
matrix.py       trained on x tested on
heatmap.py      its picture
plots.py        ROC curves, score histograms, reliability diagrams
write.py        files
run.py          the whole of one evaluation
"""
