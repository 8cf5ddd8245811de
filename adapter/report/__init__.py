"""The report: one self-contained HTML page of a run, made from the files that training and evaluation left.

gather.py      run folder -> Record: stages, epochs, evaluations
sources.py     the store, where it is still there: paths, what was dropped, what a stage was trained on
thumbs.py      face crops as data URIs
markup.py      escaping, numbers, tables
svg.py         axes and figures
charts.py      charts of predictions: ROC, DET, scores, reliability, frame timelines
series.py      charts of numbers: bars with intervals, training curves
results.py     sections: headline, curves, scores, calibration, confusion, manipulations
across.py      sections: stages and data sets against each other, modality gap, other protocols
robustness.py  section: AUC as the pictures get worse
evidence.py    sections: mistakes and doubts as pictures, all samples, what was dropped
provenance.py  sections: training, how to repeat it
page.py        sections -> page
assets/        the page's frame, its CSS and its JavaScript
"""
